"""What a cell of a notebook shows of a run.

The outputs are kept here in place of Jupyter's; `tests/docs/test_notebooks.py` runs the notebooks in real kernels.
"""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.fake_runs import record, write_run

from fedlens.core.types import BatchProgress, ClientFailure
from fedlens.tracking.console import ConsoleTracker
from fedlens.tracking.curve import Curve
from fedlens.tracking.metrics import line_of
from fedlens.tracking.notebook import REDRAW_SECONDS, NotebookTracker, screen

HEADER = {"model": "lenet", "strategy": "fedavg", "folder": "logs/a b"}


class Cell:
    """The outputs of a cell, each in its last state, as HTML; `updates` counts what was drawn again."""

    def __init__(self) -> None:
        self.outputs: list[str] = []
        self.updates: list[int] = []

    def display(self, shown: Any, display_id: bool = False) -> Output:
        self.outputs.append(html(shown))
        return Output(self, len(self.outputs) - 1)

    @property
    def text(self) -> str:
        return "\n".join(self.outputs)


class Output:
    """The handle of one output."""

    def __init__(self, cell: Cell, place: int) -> None:
        self.cell, self.place = cell, place

    def update(self, shown: Any) -> None:
        self.cell.outputs[self.place] = html(shown)
        self.cell.updates.append(self.place)


def html(shown: Any) -> str:
    return shown.data if hasattr(shown, "data") else shown._repr_mimebundle_([], [])["text/html"]


def svg(text: str) -> str:
    """The last picture in `text`, without matplotlib's random names of its parts."""
    drawn = base64.b64decode(re.findall(r"data:image/svg\+xml;base64,([\w+/=]+)", text)[-1]).decode()
    return re.sub(r"\b[mp][0-9a-f]{10}\b", "part", drawn)


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Cell:
    made = Cell()
    monkeypatch.setattr("IPython.display.display", made.display)
    return made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds = [100.0]
    monkeypatch.setattr("fedlens.tracking.notebook.time.monotonic", lambda: seconds[0])
    return seconds


def tracker() -> NotebookTracker:
    return NotebookTracker(Console(force_jupyter=True, width=100, highlight=False))


def test_in_a_notebook_and_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(screen(), ConsoleTracker)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert isinstance(screen(), NotebookTracker)


def test_rounds_redraw_a_bar_and_a_curve_and_add_no_line(cell: Cell, clock: list[float]) -> None:
    shown = tracker()
    shown.start(HEADER, 6, 0)
    before = len(cell.outputs)
    for number in range(1, 7):
        clock[0] += 10
        shown.standing(BatchProgress(number, "", 1, 2, 5, 10))
        shown.round(replace(record(number), failures=()))
        assert f"round {number} of 6" in cell.outputs[-1]
    assert len(cell.outputs) == before
    assert "round 6/6" in cell.text
    assert "training loss 0.8000 · test 80.0 %" in cell.outputs[-1]  # 2.0 - 0.2 · 6; 8 of 10 images of each class
    drawn = svg(cell.outputs[-1])
    assert all(f"<!-- {label} -->" in drawn for label in ("test", "validation", "chance"))
    assert "<!-- client accuracy -->" not in drawn  # no client was evaluated
    shown.close()
    assert "round 6/6" not in cell.text


def test_quick_rounds_do_not_wait_for_drawings(cell: Cell, clock: list[float]) -> None:
    shown = tracker()
    shown.start(HEADER, 6, 0)
    curve = len(cell.outputs) - 1
    for number in range(1, 7):
        clock[0] += REDRAW_SECONDS / 4
        shown.round(replace(record(number), failures=()))
    assert cell.updates.count(curve) == 2  # of round 1, and of round 5, which ends 2 s later
    shown.close()
    assert "round 6 of 6" in cell.outputs[curve]


def test_the_end_shows_the_headline_in_place_of_the_curve(cell: Cell, tmp_path: Path) -> None:
    folder = write_run(tmp_path).path
    shown = tracker()
    shown.start({**HEADER, "folder": str(folder)}, 6, 6)
    shown.close()
    shown.finish(folder, {"rounds": 1.0}, [])
    assert "80.0 % (95 %: " in cell.outputs[-1]
    assert "finished: all rounds done" in cell.outputs[-1]
    assert "<!-- client accuracy -->" in svg(cell.outputs[-1])


def test_a_resumed_run_shows_its_first_rounds_too(cell: Cell, tmp_path: Path) -> None:
    folder = write_run(tmp_path, rounds=4).path
    shown = tracker()
    shown.start({**HEADER, "folder": str(folder)}, 6, 3)
    assert "round 4/6" in cell.text
    assert svg(cell.outputs[-1]) == svg(Curve(line_of(record(n, clients=n == 3)) for n in (1, 2, 3)).picture(6))


def test_a_stopped_run_says_how_to_go_on(cell: Cell) -> None:
    shown = tracker()
    shown.start(HEADER, 6, 0)
    shown.round(record(1))
    shown.close()  # as after the kernel was interrupted: there is no `finish`
    assert "round 1 of 6" in cell.outputs[-1]
    assert "resume it with fedlens.resume(&#x27;logs/a b&#x27;)" in cell.outputs[-1]


def test_a_few_failures_are_named_and_all_are_counted(cell: Cell) -> None:
    shown = tracker()
    shown.start(HEADER, 6, 0)
    curve = len(cell.outputs) - 1
    shown.round(replace(record(1), failures=tuple(ClientFailure(f"c{number}", 1, "gone") for number in range(8))))
    shown.close()
    assert "round 1: c4: gone" in cell.text
    assert "c5: gone" not in cell.text
    assert "8 failed client tasks" in cell.outputs[curve]


def test_no_text_from_outside_is_markup(cell: Cell) -> None:
    hostile = "<script>window.broken=1</script>\x1b[2J"
    shown = tracker()
    shown.progress(hostile)(0, 2)
    shown.note(hostile)
    shown.start({"model": hostile, "folder": hostile}, 6, 0)
    shown.round(replace(record(1), failures=(ClientFailure(hostile, 1, hostile),)))
    shown.standing(BatchProgress(2, "", 1, 2, waiting=(hostile,)))
    shown.close()
    assert "<script" not in cell.text
    assert "\x1b" not in cell.text
    assert "&lt;script&gt;" in cell.text


def test_before_any_evaluation_there_is_no_picture() -> None:
    assert Curve().picture(3) == ""
    assert Curve([line_of(replace(record(1), test=None, validation=None))]).picture() == ""
