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
CONFIGS = ROOT / "configs" / "results"
SWEEPS = sorted(CONFIGS.glob("*.yaml"))
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
    """What a search chooses, and what it chooses it for."""
    return config.optimizer, config.strategy, config.model, config.data.image_size, config.data.partition


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
    questions, kept, runs = results.QUESTIONS[file.stem], found(file), runs_of(file)
    assert results.tables(questions, kept) in page_of(file)
    places = [(row, column) for row, cells in kept.items() for column in cells]
    assert sorted(places) == sorted({results.place_of(point) for point in runs})
    assert list(kept) == list(dict.fromkeys(results.place_of(point)[0] for point in runs))
    seeds = {point.config.seed for point in runs}
    figure = questions[0].figure
    assert {len(cell[figure]) for cells in kept.values() for cell in cells.values()} == {len(seeds)}


@pytest.mark.parametrize("file", ANSWERS, ids=lambda file: file.stem)
def test_a_column_is_the_division_that_its_runs_have(file: Path, results: ModuleType) -> None:
    for point in runs_of(file):
        column = results.place_of(point)[1]
        assert column in ("", f"{getattr(point.config.data.partition, 'alpha', None)}".removesuffix(".0"))


@pytest.mark.parametrize("file", SEARCHES, ids=lambda file: file.stem)
def test_a_page_has_what_its_search_found(file: Path, results: ModuleType) -> None:
    assert results.tried(found(file)) in page_of(file)


@pytest.mark.parametrize("file", SEARCHES, ids=lambda file: file.stem)
def test_a_sweep_uses_what_its_search_found(file: Path, results: ModuleType) -> None:
    """Each method that was searched for has the values with the lowest loss on the validation images."""
    tried = {results.case_of(point): point for point in runs_of(file)}
    used = runs_of(file.with_name(file.name.replace("-search", "")))
    for case, losses in found(file).items():
        chosen = tried[f"{case}, {results.best(losses)}"].config
        runs = [point for point in used if results.case_of(point) == case]
        assert runs, case
        for point in runs:
            assert chosen_of(point.config) == chosen_of(chosen), case


@pytest.mark.parametrize("file", SEARCHES, ids=lambda file: file.stem)
def test_a_search_has_none_of_the_seeds_of_its_sweep(file: Path) -> None:
    answer = file.with_name(file.name.replace("-search", ""))
    assert not {point.config.seed for point in runs_of(file)} & {point.config.seed for point in runs_of(answer)}


def test_every_strategy_has_four_tries_for_every_skew() -> None:
    losses = found(CONFIGS / "strategies-search.yaml")
    assert {len(tries) for tries in losses.values()} == {4}


def test_personalised_methods_have_the_learning_rate_of_fedavg_at_their_skew(results: ModuleType) -> None:
    used = {results.case_of(point): point.config for point in runs_of(CONFIGS / "strategies.yaml")}
    for point in runs_of(CONFIGS / "personalization.yaml"):
        rate = used[f"fedavg{results.SKEW}{results.place_of(point)[1]}"].optimizer.lr
        assert point.config.optimizer.lr == rate
        assert getattr(point.config.personalization, "tune_lr", rate) == rate


def test_cells_are_means_over_seeds_and_paired_differences(results: ModuleType) -> None:
    """Differences 1, 2, 3 points: 2 ± 4.303 · 1 / √3 = 2.5, which holds 0; 10, 11, 12: 11 ± 2.5, which does not."""
    question = results.Question("accuracy", "accuracy", ("a",), ("megabytes", "epsilon"))
    cases = {"a": (0.5, 0.5, 0.5), "b": (0.51, 0.52, 0.53), "c": (0.6, 0.61, 0.62)}
    kept = {
        case: {"": {"accuracy": list(values), "megabytes": [1, 2, 3], "epsilon": [None, None, None]}}
        for case, values in cases.items()
    }
    assert results.tables([question], kept).splitlines() == [
        "|  | accuracy, % | minus a | MB | ε |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| a | 50.0 ± 0.0 |  | 2.0 | – |",
        "| b | 52.0 ± 2.5 | +2.0 ± 2.5 | 2.0 | – |",
        "| c | 61.0 ± 2.5 | **+11.0 ± 2.5** | 2.0 | – |",
    ]


def test_a_column_for_each_division_and_differences_to_the_first_one(results: ModuleType) -> None:
    """4.303 · 1 / √3 = 2.5, as above. a falls by 10, 20, 30 points: 20 ± 4.303 · 10 / √3 = 24.8; b by 9, 10, 11."""
    figure = {
        "a": {"100": [0.8, 0.8, 0.8], "0.3": [0.7, 0.6, 0.5]},
        "b": {"100": [0.81, 0.82, 0.83], "0.3": [0.72, 0.72, 0.72]},
    }
    kept = {
        row: {column: {"accuracy": values, "megabytes": [10, 20, 30]} for column, values in cells.items()}
        for row, cells in figure.items()
    }
    first = results.Question("accuracy", "accuracy", ("a",), ("megabytes",))
    second = results.Question("accuracy", "accuracy again", only=("b",), across=True)
    assert results.tables([first, second], kept).splitlines() == [
        "| accuracy, % | α = 100 | α = 0.3 | MB |",
        "| --- | ---: | ---: | ---: |",
        "| a | 80.0 ± 0.0 | 60.0 ± 24.8 | 20.0 |",
        "| b | 82.0 ± 2.5 | 72.0 ± 0.0 | 20.0 |",
        "",
        "| minus a, points | α = 100 | α = 0.3 |",
        "| --- | ---: | ---: |",
        "| b | +2.0 ± 2.5 | +12.0 ± 24.8 |",
        "",
        "| accuracy again, % | α = 100 | α = 0.3 |",
        "| --- | ---: | ---: |",
        "| b | 82.0 ± 2.5 | 72.0 ± 0.0 |",
        "",
        "| minus α = 100, points | α = 0.3 |",
        "| --- | ---: |",
        "| b | **-10.0 ± 2.5** |",
    ]


def test_what_was_tried_is_the_mean_over_seeds_with_the_lowest_one_in_bold(results: ModuleType) -> None:
    """Means 0.5 and 0.45: what is best on one division only is not chosen, and what failed on one has no mean."""
    kept = {"a, α = 0.3": {"lr=0.1": [0.2, 0.8], "lr=0.05": [0.4, 0.5], "lr=0.2": [0.1, None]}}
    assert results.best(kept["a, α = 0.3"]) == "lr=0.05"
    assert results.tried(kept).splitlines() == [
        "|  | loss on the validation images |",
        "| --- | ---: |",
        "| a, α = 0.3 | lr=0.1: 0.500 · **lr=0.05: 0.450** · lr=0.2: failed |",
    ]
