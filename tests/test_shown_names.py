"""`tracking.names`: display names in the report and in pictures of trackers, and nowhere else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.photos import CLASSES, photos
from tests.problems import refuses

import fedlens
from fedlens.core.files import read_json
from fedlens.reports.html import write_report
from fedlens.tracking import board
from fedlens.tracking.observer import Silent
from fedlens.tracking.run_dir import RunDir

NAMES = {"cup": "杯子", "fork": "叉子 <b>", "plate": "طبق"}
QUICK = (
    *("data.path=photos", "data.test=0.4", "data.partition.clients=2", "data.partition.scheme=iid"),
    *("model.name=lenet", "federated.num_rounds=1", "runtime.name=in_process"),
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDLENS_CACHE", str(tmp_path / "cache"))
    photos(Path("photos"), each=12)
    Path("names.json").write_text(json.dumps(NAMES), encoding="utf-8")
    return tmp_path


def drawn(page: str) -> list[dict[str, Any]]:
    """The traces of all plots."""
    figures = re.findall(r'<script class="figure" type="application/json">(.*?)</script>', page, re.S)
    return [trace for figure in figures for trace in json.loads(figure)["data"]]


def test_people_read_display_names_and_files_keep_the_classes(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[str]] = {}

    def spied(name: str, at: int) -> None:
        draw = getattr(board, name)
        monkeypatch.setattr(board, name, lambda *given: seen.update({name: list(given[at])}) or draw(*given))

    spied("confusion_figure", 1)
    spied("predictions_figure", 1)
    found = fedlens.run(None, *QUICK, "tracking.names=names.json", show=False)
    assert seen["confusion_figure"] == list(NAMES.values())
    assert set(seen["predictions_figure"]) <= set(NAMES.values())

    run = RunDir(found.folder)
    page = run.report.read_text(encoding="utf-8")
    shown = [name.replace("<", "&lt;").replace(">", "&gt;") for name in NAMES.values()]
    traces = drawn(page)
    assert [trace["y"] for trace in traces if trace["type"] == "heatmap"] == [shown]
    assert set(shown) <= {trace.get("name") for trace in traces}  # who holds what
    (embedded,) = re.findall(r'<script type="application/json" id="pictures">(.*?)</script>', page, re.S)
    kept = json.loads(embedded)
    for cell in (*kept["cells"], *kept["pictures"]):
        assert {cell["true"], cell["predicted"]} <= set(NAMES.values())
    assert "杯子 →" in page

    assert read_json(run.partition)["class_names"] == list(CLASSES)
    assert {cell["true"] for cell in read_json(run.pictures)["cells"]} <= set(CLASSES)
    assert not [name for name in NAMES.values() if name in run.metrics.read_text(encoding="utf-8")]

    Path("names.json").unlink()
    write_report(run.path)
    assert "杯子 →" in run.report.read_text(encoding="utf-8")


def test_a_run_goes_on_from_another_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = ("tracking.tensorboard=false", "tracking.report=false")
    run = RunDir(fedlens.run(None, *QUICK, *quiet, "tracking.names=names.json", show=False).folder.absolute())
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    fedlens.resume(run.path, "federated.num_rounds=2", show=False)
    assert read_json(run.partition)["display"] == NAMES
    fedlens.resume(run.path, "federated.num_rounds=3", "tracking.names=null", show=False)
    assert "display" not in read_json(run.partition)


@pytest.mark.parametrize(
    ("names", "code", "said"),
    [
        ("fr", "not_found", "no such file, and no language that ships"),
        ("zh", "incompatible", "these names are for the classes of the sample"),
        ("names.json", "unknown_name", "no class of the model: spoon"),
    ],
)
def test_names_that_do_not_fit_are_refused_before_the_first_round(here: Path, names: str, code: str, said: str) -> None:
    Path("names.json").write_text('{"spoon": "Löffel"}', encoding="utf-8")
    with refuses((code, "tracking.names")) as caught:
        fedlens.run(None, *QUICK, f"tracking.names={names}", show=False)
    assert str(caught.value).startswith(f"tracking.names={names}: {said}")
    assert not list(here.rglob("metrics.jsonl"))


def test_a_note_says_where_pictures_have_no_letters(here: Path) -> None:
    notes: list[str] = []

    class Noting(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    Path("names.json").write_text(json.dumps({"cup": "\U000f1234"}), encoding="utf-8")
    fedlens.run(None, *QUICK, "tracking.names=names.json", show=Noting())
    assert any("no installed font" in note for note in notes)
