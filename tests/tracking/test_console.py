"""What a run shows on the terminal."""

from __future__ import annotations

import io
import json
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fedlens.core.files import to_json
from fedlens.core.records import ClientEvaluation, Evaluation, RoundRecord
from fedlens.core.types import BatchProgress, ClientFailure, ClientReport, MeanMetric
from fedlens.tracking.console import ConsoleTracker
from fedlens.tracking.metrics import line_of
from fedlens.tracking.next_steps import next_commands

HEADER = {"model": "cnn", "strategy": "fedavg", "folder": "logs/a b"}


def record(number: int, failures: tuple[ClientFailure, ...] = ()) -> RoundRecord:
    """Two clients with loss 1.5 on average; 3 of 4 test images right."""
    return RoundRecord(
        round=number,
        lr=0.1,
        reports=(
            ClientReport("a", 1, {"loss": MeanMetric(1.0, 1)}),
            ClientReport("b", 1, {"loss": MeanMetric(2.0, 1)}),
        ),
        failures=failures,
        update_norm=1.0,
        bytes_down=2_000_000,
        bytes_up=1_500_000,
        seconds={"train": 1.0, "evaluate": 0.25},
        test=Evaluation(0.5, np.array([[2, 1], [0, 1]])),
    )


def plain(text: str) -> str:
    """`text` without a terminal's control sequences; what is drawn over stands in a line of its own."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n")


@pytest.fixture(params=[False, True], ids=["plain", "terminal"])
def shown(request):
    """A tracker and what it has written so far."""
    console = Console(file=io.StringIO(), force_terminal=request.param, width=200, highlight=False)
    tracker = ConsoleTracker(console)
    yield tracker, console.file.getvalue
    tracker.close()


def test_a_row_a_round_under_one_header(shown):
    tracker, text = shown
    tracker.start(HEADER, 12, 0)
    tracker.round(record(1))
    tracker.round(record(2))
    assert "model     cnn" in text()
    table = [line.split() for line in plain(text()).splitlines() if "━" not in line]
    head, *rows = [cells for cells in table if "MB" in cells or "/12" in "".join(cells)]
    assert head == ["round", "loss", "test", "val", "clients", "MB", "s"]
    # 2.0 + 1.5 MB, told once because it does not change; 1 + 0.25 s
    assert rows[0] == ["1/12", "1.5000", "75.0", "%", "–", "2/2", "3.50", "1.25"]
    assert rows[1] == ["2/12", "1.5000", "75.0", "%", "–", "2/2", '"', "1.25"]


def test_floors_are_said_once_before_the_rounds(shown):
    tracker, text = shown
    tracker.start(HEADER, 12, 0)
    for number in (1, 2):
        tracker.round(
            replace(record(number), chance=0.5, test=Evaluation(0.5, np.array([[2, 1], [0, 1]]), majority=0.75))
        )
    assert plain(text()).count("test  4 images; chance 50.0 %, majority class 75.0 %") == 1


def test_a_round_of_simulated_clients_shows_their_clock(shown):
    tracker, text = shown
    tracker.start(HEADER, 12, 0)
    tracker.round(replace(record(1), virtual_seconds=125.0))
    assert re.search(r" s +clock$", plain(text()), re.MULTILINE)
    assert "2 min 5 s" in text()


def test_failures_are_named_but_not_all_of_many(shown):
    tracker, text = shown
    tracker.start(HEADER, 12, 0)
    tracker.round(record(1, tuple(ClientFailure(f"c{i}", 1, "loss [NaN]") for i in range(7))))
    assert " 2/9 " in text()
    assert "c0: loss [NaN]" in text()
    assert "c5" not in text()
    assert "and 2 more" in text()


def test_at_80_columns_lines_are_folded_between_words():
    console = Console(file=io.StringIO(), force_terminal=True, width=80, highlight=False)
    tracker = ConsoleTracker(console)
    path = "logs/" + "x" * 70
    tracker.start({"model": "a few words " * 10, "folder": path}, 1000, 0)
    tracker.note(f"the images of {path} and some more words that do not fit into one line of a terminal")
    tracker.round(replace(record(1000, (ClientFailure("c", 1, "words " * 20),)), virtual_seconds=3e7))
    tracker.close()
    lines = plain(console.file.getvalue()).splitlines()
    assert all(len(line) <= 80 for line in lines if path not in line)
    assert sum(path in line for line in lines) == 2  # whole, so that it can be copied
    assert sum(line.startswith("        ") for line in lines if "few" in line) == 1  # below the value


def test_interrupted_says_how_to_go_on(shown):
    tracker, text = shown
    tracker.start(HEADER, 12, 0)
    tracker.round(record(1))
    tracker.interrupted()
    assert "1 of 12 rounds are kept. Go on with: fedlens resume 'logs/a b'" in text()


def test_the_end_shows_the_result_and_three_commands(shown, tmp_path):
    tracker, text = shown
    folder = tmp_path / "logs" / "run"
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    (folder / "report.html").touch()
    (folder / "metrics.jsonl").write_text("".join(to_json(line_of(record(number))) + "\n" for number in (1, 2)))
    tracker.start(HEADER, 2, 1)
    tracker.round(record(2))
    tracker.close()
    tracker.finish(folder, {"start": 58.0, "rounds": 2.5, "report": 0.7, "features": 0.0}, [])
    shown_text = text().replace("\n", "")
    assert "75.0 %" in shown_text
    assert "7.0 MB (4.0 down, 3.0 up)" in shown_text
    # 1.25 s a round, the one before the resume, too
    assert "2.5 s for 2 rounds" in shown_text
    assert "1 min 1 s: start 58.0 s, rounds 2.5 s, report 0.7 s" in shown_text
    assert "report.html" in shown_text
    assert "config.yaml strategy.name=fedprox" in shown_text


def test_the_client_that_is_proposed_is_not_malicious(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("personalization: {name: fedper}")
    counts = {"train": [1], "val": [1], "test": [1]}
    partition = {"class_names": ["a"], "clients": {"bad": counts, "good one": counts}, "test": [1]}
    (folder / "partition.json").write_text(json.dumps(partition))
    bad, good = (ClientEvaluation(name, 0.5, 1.0, 4, True, malicious=name == "bad") for name in ("bad", "good one"))
    (folder / "metrics.jsonl").write_text(to_json(line_of(replace(record(1), clients=(bad, good)))) + "\n")
    assert next_commands(folder, "fedlens run x")[0] == f"fedlens predict {folder} photo.jpg --client 'good one'"


def test_the_next_commands_fit_the_run(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
    (tmp_path / "a" / "config.yaml").write_text("strategy: {name: fedprox, mu: 1}")
    commands = next_commands(tmp_path / "a", "fedlens run config.yaml strategy.name=fedprox strategy.mu=1")
    assert commands == [
        f"fedlens predict {tmp_path}/a photo.jpg",
        f"tensorboard --logdir {tmp_path}",
        "fedlens run config.yaml strategy.name=fedavgm",
    ]
    (tmp_path / "b" / "config.yaml").touch()
    assert next_commands(tmp_path / "a", "x")[2] == f"fedlens compare {tmp_path}"


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the bars believe in."""
    seconds = [0.0]
    monkeypatch.setattr("fedlens.tracking.bars.time.monotonic", lambda: seconds[0])
    return seconds


def test_long_work_has_a_bar_only_while_it_lasts(clock, shown):
    tracker, text = shown
    work = tracker.progress("decoding images")
    work(0, 1000)
    work(500, 1000)
    work(1000, 1000)
    assert "decoding" not in text()  # it was soon done
    work(0, 1000)
    clock[0] = 30.0
    work(250, 1000)
    assert "decoding images" in text()
    assert "30 s, about 2 min left" in text()  # 750 more at 250 in 30 s


def test_progress_inside_a_round(clock, shown):
    tracker, text = shown
    tracker.start(HEADER, 3, 0)
    clock[0] = 5.0
    tracker.standing(BatchProgress(1, "", 0, 8, 1, 100))
    clock[0] = 15.0
    tracker.standing(BatchProgress(1, "", 1, 8, 21, 100))
    # 20 steps in 10 s: 79 more take 39.5 s; a round of 15 + 39.5 s, and two more of them
    assert "15 s, about 2 min left" in text()
    assert re.search(r"round 1/3.* 1(/| of )8 clients,? +21(/| of )100 steps", plain(text()).replace("\n", " "))


def test_between_machines_it_says_who_is_waited_for(clock, shown):
    tracker, text = shown
    tracker.start(HEADER, 3, 0)
    clock[0] = 15.0
    tracker.standing(BatchProgress(1, "", 1, 3, waiting=("clinic-b", "clinic-c (away)")))
    assert "waiting for clinic-b, clinic-c (away)" in text()


def test_without_a_terminal_lines_come_ever_more_seldom(clock):
    console = Console(file=io.StringIO(), force_terminal=False, width=80)
    tracker = ConsoleTracker(console)
    tracker.start(HEADER, 1, 0)
    for second in range(1, 4001):
        clock[0] = float(second)
        tracker.standing(BatchProgress(1, "", 0, 8, second, 4000))
    lines = [line for line in console.file.getvalue().splitlines() if "steps" in line]
    # after 10, 20, 40, 80, 160 s, then every 300 s: (4000 - 310) / 300
    assert len(lines) == 5 + 12
    assert lines[0] == "round 1/1: 0 of 8 clients, 10 of 4,000 steps, 10 s"


def test_plain_output_has_no_control_characters():
    console = Console(file=io.StringIO(), force_terminal=False)
    tracker = ConsoleTracker(console)
    tracker.start(HEADER, 2, 1)
    tracker.progress("decoding images")(1, 10)
    tracker.note("a note")
    tracker.round(record(2, (ClientFailure("c", 2, "gone"),)))
    tracker.close()
    text = console.file.getvalue()
    assert "going on after round 1" in text
    assert not [character for character in text if ord(character) < 32 and character != "\n"]


def test_a_folder_with_spaces_is_quoted():
    assert next_commands(Path("my logs/run 1"), "x")[0] == "fedlens predict 'my logs/run 1' photo.jpg"


def test_no_text_from_outside_reaches_the_terminal_as_it_is(shown):
    tracker, text = shown
    hostile = "gone\x1b[2J\x9b31m\u202e\ud800"
    tracker.start({"model": hostile, "folder": hostile}, 12, 0)
    tracker.progress(hostile)(0, 2)
    tracker.note(hostile)
    tracker.round(record(1, (ClientFailure(hostile, 1, hostile),)))
    tracker.interrupted()
    assert "gone�[2J" in text()
    assert not {"\x9b", "\u202e", "\ud800"} & set(text())
    assert "\x1b[2J" not in text()


def test_what_came_before_the_run_is_part_of_its_start(tmp_path):
    console = Console(file=io.StringIO(), force_terminal=False, width=200)
    tracker = ConsoleTracker(console, began=time.time() - 12.02)
    (tmp_path / "config.yaml").touch()
    tracker.finish(tmp_path, {"features": 2.0, "rounds": 4.0}, [])
    assert re.search(r"this call +12\.\d s: start 6\.\d s, features 2\.0 s, rounds 4\.0 s", console.file.getvalue())
