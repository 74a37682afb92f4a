"""Run folders that somebody or something has damaged: one line with file and line, and the other runs go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from tests.fake_runs import write_run
from typer.testing import CliRunner

from fedlens import api
from fedlens.cli.main import app
from fedlens.data.show import of_run
from fedlens.errors import FedLensError
from fedlens.inference.personal import clients_of
from fedlens.reports.compare import compare_runs
from fedlens.tracking.metrics import read_metrics
from fedlens.tracking.run_dir import RunDir

LINES = ["7", "[1]", "null", '"x"', "[" * 50_000, "{", '{"round": "x"}', '{"round": null, "test": 1}', "9" * 5_000]
FORMS = {
    "result.json": ["7", "[]", '{"reason": 3}', "null", "{"],
    "partition.json": ["7", '{"clients": []}', '{"class_names": 3, "clients": {}, "test": []}', "[" * 50_000],
    "confusion.json": ["[]", '{"test": 3, "validation": null}'],
    "data.json": ["null", '{"read": "many", "skipped": [], "notes": []}'],
    "data-key.json": ["3", "{}"],
    "config.yaml": ["7", "model: 3", "a: [", "seed: 1\nfederated: [1]"],
}


@pytest.mark.parametrize("line", LINES)
def test_a_damaged_line_of_metrics_is_named(tmp_path: Path, line: str) -> None:
    run = write_run(tmp_path)
    texts = run.metrics.read_text().splitlines()
    texts[2] = line
    run.metrics.write_text("\n".join(texts) + "\n")
    with pytest.raises(FedLensError) as caught:
        read_metrics(run.metrics)
    (message,) = str(caught.value).splitlines()
    assert f"{run.metrics}, line 3: " in message
    assert len(message) < 400


@pytest.mark.parametrize("what", ["test", "validation", "clients", "cohort", "failures", "bytes_up", "seconds"])
def test_a_value_of_another_type_in_a_round_is_named(tmp_path: Path, what: str) -> None:
    run = write_run(tmp_path)
    first, *rest = run.metrics.read_text().splitlines()
    run.metrics.write_text("\n".join([json.dumps(json.loads(first) | {what: "x"}), *rest, ""]))
    with pytest.raises(FedLensError, match=f"line 1: {what}"):
        read_metrics(run.metrics)


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in FORMS.items() for text in texts])
def test_compare_goes_on_with_the_other_runs(tmp_path: Path, name: str, text: str) -> None:
    whole, damaged = write_run(tmp_path, "whole"), write_run(tmp_path, "damaged")
    (damaged.path / name).write_text(text)
    notes: list[str] = []
    rows = compare_runs([tmp_path], notes.append)
    assert [row["run"] for row in rows] == [whole.name]
    (note,) = notes
    assert note.startswith(f"left out: {damaged.path / name}")
    done = CliRunner().invoke(app, ["compare", str(tmp_path)])
    assert done.exit_code == 0
    assert whole.name in done.stdout
    assert "left out" in done.stderr


def test_a_comparison_of_damaged_runs_alone_is_an_error(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    run.result.write_text("7")
    done = CliRunner().invoke(app, ["compare", str(run.path)])
    assert done.exit_code == 1
    assert done.stderr.strip().startswith(f"{run.result}: the whole: ")


@pytest.mark.parametrize(
    "text", [*FORMS["partition.json"], '{"class_names": ["a"], "clients": {"c": {"train": [null]}}}']
)
def test_show_and_predict_name_the_file(tmp_path: Path, text: str) -> None:
    run = write_run(tmp_path)
    run.partition.write_text(text)
    for reader in (of_run, lambda path: clients_of(RunDir(path))):
        with pytest.raises(FedLensError, match=r"partition\.json"):
            reader(run.path)


def test_different_images_are_said(tmp_path: Path) -> None:
    one, other = write_run(tmp_path, "one"), write_run(tmp_path, "other")
    one.fingerprint.write_text('"a"')
    other.fingerprint.write_text('"a"')
    notes: list[str] = []
    compare_runs([tmp_path], notes.append)
    assert not notes
    other.fingerprint.write_text('"b"')
    compare_runs([tmp_path], notes.append)
    (note,) = notes
    assert note.startswith("the runs were trained on different images, so their accuracies do not compare: ")
    assert one.name in note
    assert other.name in note


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
ANY_LINE = st.dictionaries(
    st.sampled_from(["round", "test", "clients", "cohort", "seconds", "bytes_up", "validation", "failures"]), JSON
)
PLACES = st.sampled_from(
    ["result.json", "partition.json", "confusion.json", "data.json", "versions.json", "metrics.jsonl"]
)


@pytest.mark.fuzz
@given(name=PLACES, key=st.text(max_size=3), value=JSON, whole=st.booleans(), line=ANY_LINE)
def test_any_run_folder_is_compared_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, key: str, value: Any, whole: bool, line: dict[str, Any]
) -> None:
    run = write_run(tmp_path_factory.mktemp("runs"))
    file = run.path / name
    if name == "metrics.jsonl":
        texts = file.read_text().splitlines()
        texts[3] = json.dumps(line if whole else json.loads(texts[3]) | line)
        file.write_text("\n".join(texts) + "\n")
    elif file.exists():
        known = json.loads(file.read_text())
        place = key if key in known else next(iter(known))
        file.write_text(json.dumps(value if whole else known | {place: value}))
    for reader in (
        lambda: compare_runs([run.path], lambda _: None),
        lambda: of_run(run.path),
        lambda: api.Run(run.path).metrics,
    ):
        try:
            reader()
        except FedLensError as error:
            assert str(error)
