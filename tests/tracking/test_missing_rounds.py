"""A round without a line is named, never counted as if the record were whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fake_runs import write_page, write_run
from tests.runs import run

import fedlens
from fedlens.reports.compare import compare_runs
from fedlens.reports.html import write_report
from fedlens.tracking.metrics import MetricsFile, read_metrics
from fedlens.tracking.missing_rounds import missing_note, missing_rounds
from fedlens.tracking.observer import Silent
from fedlens.tracking.run_dir import RunDir


class Listening(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def without_lines(run: RunDir, *rounds: int) -> None:
    texts = run.metrics.read_text().splitlines(keepends=True)
    run.metrics.write_text("".join(text for number, text in enumerate(texts, start=1) if number not in rounds))


@pytest.mark.parametrize(
    ("there", "done", "missing", "named"),
    [
        ([1, 2, 3], 3, [], ""),
        ([], 0, [], ""),
        ([1, 3], 3, [2], "round 2:"),
        ([2, 5, 9], 10, [1, 3, 4, 6, 7, 8, 10], "rounds 1, 3–4, 6–8, 10:"),
        ([], 3, [1, 2, 3], "rounds 1–3:"),
        ([2, 4, 6, 8, 10, 12], 0, [1, 3, 5, 7, 9, 11], "rounds 1, 3, 5, 7, 9, …:"),
    ],
)
def test_which_rounds_are_missing(there: list[int], done: int, missing: list[int], named: str) -> None:
    assert missing_rounds([{"round": number} for number in there], done) == missing
    assert named in missing_note(missing)
    assert bool(missing_note(missing)) == bool(missing)


def test_compare_and_report_name_them(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    (folder.checkpoints / "round-00000006").mkdir()
    without_lines(folder, 2, 6)
    notes: list[str] = []
    (row,) = compare_runs([folder.path], notes.append)
    expected = "metrics.jsonl has no line for rounds 2, 6: accuracy, communication and time are of the others only"
    assert notes == [f"{folder.name}: {expected}"]
    assert (row["rounds"], row["missing_rounds"]) == (6, 2)
    write_page([folder.path], tmp_path / "cmp.html")
    for page in (write_report(folder.path), tmp_path / "cmp.html"):
        assert expected in page.read_text()


def test_a_resume_names_them(tmp_path: Path) -> None:
    folder = RunDir(run(tmp_path, "federated.num_rounds=2").folder)
    folder.metrics.write_text("")
    told = Listening()
    fedlens.resume(folder.path, "federated.num_rounds=3", show=told)
    assert [note for note in told.notes if "metrics.jsonl" in note] == [missing_note([1, 2])]
    assert [line["round"] for line in read_metrics(folder.metrics)] == [3]


@pytest.mark.parametrize(("removed", "after", "kept"), [((), 2, [1, 2]), ((2,), 2, [1]), ((1,), 1, []), ((), 1, [1])])
def test_a_torn_last_line_does_not_refuse_a_resume(
    tmp_path: Path, removed: tuple[int, ...], after: int, kept: list[int]
) -> None:
    folder = write_run(tmp_path, rounds=2)
    without_lines(folder, *removed)
    with folder.metrics.open("a") as file:
        file.write('{"round": 3, "te\n')
    assert MetricsFile(folder.metrics, after).missing == [
        number for number in range(1, after + 1) if number not in kept
    ]
    assert [line["round"] for line in read_metrics(folder.metrics)] == kept
