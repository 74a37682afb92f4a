"""The answers of docs/results/: their sweeps can be made, and pages, figures and searches say the same."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fedlens.cli.sweep import base_of
from fedlens.config.schema import Config
from fedlens.sweeps.points import Point, from_file, points

ROOT = Path(__file__).parents[1]
SWEEPS = sorted((ROOT / "configs" / "results").glob("*.yaml"))
ANSWERS = [file for file in SWEEPS if not file.stem.endswith("-search")]
SEARCHES = [file for file in SWEEPS if file not in ANSWERS]


@pytest.fixture(scope="module")
def results() -> Iterator[ModuleType]:
    """benchmarks/results.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        import results

        yield results
    sys.modules.pop("results")


def runs_of(file: Path) -> list[Point]:
    return points(base_of(None, file), [], from_file(file), file.stem)


def page_of(file: Path) -> str:
    name = file.stem.removesuffix("-search")
    return (ROOT / "docs" / "results" / f"{name}.md").read_text(encoding="utf-8")


def chosen_of(config: Config) -> tuple[Any, ...]:
    """The sections that searches try values of."""
    return config.optimizer, config.strategy, config.privacy


def found(file: Path) -> dict:
    kept = ROOT / "benchmarks" / "results" / f"answer-{file.stem}.json"
    return json.loads(kept.read_text(encoding="utf-8"))["found"]


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_every_run_of_a_sweep_can_be_made_and_the_file_states_command_and_time(file: Path) -> None:
    assert len(runs_of(file)) > 1
    header = file.read_text(encoding="utf-8").split("\nconfig:")[0]
    assert f"fedlens sweep --file {file.relative_to(ROOT)}" in header
    assert re.search(r"Time: .*minutes", header)


@pytest.mark.parametrize("file", ANSWERS, ids=lambda file: file.stem)
def test_a_page_has_the_figures_of_its_runs(file: Path, results: ModuleType) -> None:
    question, kept = results.QUESTIONS[file.stem], found(file)
    assert results.tables(question, kept) in page_of(file)
    made = {results.case_of(point) for point in runs_of(file)}
    assert list(kept) == list(dict.fromkeys(results.case_of(point) for point in runs_of(file))), made
    seeds = {point.config.seed for point in runs_of(file)}
    assert {len(cell[question.figure]) for cells in kept.values() for cell in cells.values()} == {len(seeds)}


@pytest.mark.parametrize("file", SEARCHES, ids=lambda file: file.stem)
def test_a_page_has_what_its_search_found(file: Path, results: ModuleType) -> None:
    assert results.tried(found(file)) in page_of(file)


@pytest.mark.parametrize("file", SEARCHES, ids=lambda file: file.stem)
def test_a_sweep_uses_what_its_search_found(file: Path, results: ModuleType) -> None:
    """Each method that was searched for has the values with the lowest loss on the validation images."""
    tried = {point.label: point for point in runs_of(file)}
    used = runs_of(file.with_name(file.name.replace("-search", "")))
    for method, losses in found(file).items():
        chosen = tried[f"{method}, {results.best(losses)}"].config
        for point in (point for point in used if results.case_of(point) == method):
            assert chosen_of(point.config) == chosen_of(chosen), method


def test_cells_are_means_over_seeds_and_paired_differences(results: ModuleType) -> None:
    """Differences 1, 2, 3 points: 2 ± 4.303 · 1 / √3 = 2.5, which holds 0; 10, 11, 12: 11 ± 2.5, which does not."""
    question = results.Question("accuracy", "accuracy", ("a",), costs=("megabytes", "epsilon"))
    cases = {"a": (0.5, 0.5, 0.5), "b": (0.51, 0.52, 0.53), "c": (0.6, 0.61, 0.62)}
    kept = {
        case: {"": {"accuracy": list(values), "megabytes": [1, 2, 3], "epsilon": [None, None, None]}}
        for case, values in cases.items()
    }
    assert results.tables(question, kept).splitlines() == [
        "|  | accuracy, % | minus a | MB | ε |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| a | 50.0 ± 0.0 |  | 2.0 | – |",
        "| b | 52.0 ± 2.5 | +2.0 ± 2.5 | 2.0 | – |",
        "| c | 61.0 ± 2.5 | **+11.0 ± 2.5** | 2.0 | – |",
    ]
