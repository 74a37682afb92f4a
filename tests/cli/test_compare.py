"""`fedlens compare` on terminals of different widths, and what it says when it can't do what was asked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.commands import command
from tests.fake_runs import write_run

from fedlens.cli.compare import fitted
from fedlens.reports.compare import NAMES, as_table, compare_runs


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """A finished run, and one of a sweep that was stopped."""
    write_run(tmp_path, "whole")
    write_run(tmp_path / "sweep", "optimizer.lr=0.1 seed=1", rounds=2, strategy="fedadagrad")
    return tmp_path


@pytest.fixture
def narrow(monkeypatch) -> None:
    """A terminal of 80 columns without colours."""
    for name, value in {"FORCE_COLOR": "1", "TERM": "dumb", "COLUMNS": "80"}.items():
        monkeypatch.setenv(name, value)


def test_at_80_columns_a_run_takes_two_whole_lines(logs: Path, narrow: None) -> None:
    lines = re.sub(r"\x1b\[[0-9;]*m", "", command(f"compare {logs}").stdout).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "run, model, strategy, data, partition"
    assert lines[1].split() == ["rounds", "accuracy", "best", "client", "accuracy", "worst", "MB", "time"]
    assert len(lines[1]) == len(lines[3]) == len(lines[5])  # figures stand below each other
    assert re.fullmatch(r"whole-\d{8}-\d{6}, lenet, fedavg, sample, –", lines[2])
    figures = ["80.0", "±17.3", "%", "60.0", "%", "60.0", "±60.0", "%", "30.0", "%", "18.0", "18.0", "s"]
    assert lines[3].split() == ["6/6", *figures]
    assert re.fullmatch(r"optimizer\.lr=0\.1-seed=1-\d{8}-\d{6}, lenet, fedadagrad, sample, –", lines[4])
    assert lines[5].split() == ["2/6", "stopped", "40.0", "±17.7", "%", "40.0", "%", "–", "–", "6.0", "6.0", "s"]


def test_a_run_takes_one_line_where_there_is_room(logs: Path) -> None:
    head, cells = as_table(compare_runs([logs]))
    rows = [head, *cells]
    one_a_run = [line for line, _ in fitted(rows, len(NAMES))]
    assert len(one_a_run) == 3
    assert len({len(line) for line in one_a_run}) == 1  # columns stand below each other
    wide = len(one_a_run[0])
    assert [line for line, _ in fitted(rows, len(NAMES), wide)] == one_a_run
    assert len(list(fitted(rows, len(NAMES), wide - 1))) == 6
    assert [bold for _, bold in fitted(rows, len(NAMES))] == [True, False, False]


def test_runs_of_every_given_folder_and_single_runs(logs: Path, tmp_path: Path) -> None:
    (whole,) = logs.glob("whole-*")
    assert len(table_of(f"compare {whole} {logs / 'sweep'}")) == 3
    assert len(table_of(f"compare {whole}")) == 2


def table_of(line: str) -> list[str]:
    """The lines above what the figures were measured on."""
    above, _ = command(line).stdout.split("\n\n")
    return above.splitlines()


def test_notes_say_what_the_figures_have_to_be_held_against(logs: Path) -> None:
    """Floors as in fake_runs; the run with FedPer is held against each client's own commonest class."""
    (whole,) = logs.glob("whole-*")
    _, notes = command(f"compare {whole}").stdout.split("\n\n")
    assert "accuracy: 30 images; chance 33.3 %, majority class 25.0 %" in notes
    assert "client accuracy: 100 images of 3 clients; chance 33.3 %, majority class 20.0 %" in notes
    assert "no client uses" not in notes
    with (whole / "config.yaml").open("a") as file:
        file.write("personalization: {name: ditto}\n")
    above, notes = command(f"compare {whole}").stdout.split("\n\n")
    assert "80.0 ±17.3 %*" in above
    assert "* of the shared model, which no client uses" in notes
    assert "client accuracy: 100 images of 3 clients; chance 33.3 %, majority class of each client 40.0 %" in notes


def test_without_a_run_it_says_how_to_get_one(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = command("compare")
    assert result.exit_code == 2
    assert result.stderr == "no run in logs: `fedlens run` makes one\n"


def test_a_csv_file_that_cannot_be_written(logs: Path) -> None:
    result = command(f"compare {logs} --csv {logs / 'nowhere' / 'table.csv'}")
    assert result.exit_code == 2
    assert result.stderr.startswith("--csv ")
    assert result.stderr.endswith("table.csv: cannot be written (No such file or directory); give another file\n")
