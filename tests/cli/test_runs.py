"""`fedlens runs`, `watch` and `clean`: how runs stand, following one, and making room."""

from __future__ import annotations

import fcntl
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.commands import SMALL, command, refused_in_one_line
from tests.fake_runs import record, write_run
from tests.flower.processes import until
from typer.testing import CliRunner

from fedlens.cli.main import app
from fedlens.core.files import append_line, to_json, write_json
from fedlens.tracking.metrics import line_of
from fedlens.tracking.run_dir import RunDir

TRAINS = """
import sys
from pathlib import Path
from fedlens.tracking.run_dir import RunDir
with RunDir(Path(sys.argv[1])).exclusive_lock():
    print("begun", flush=True)
    sys.stdin.read()
"""

LOOKS = """
import fcntl, sys, time
with open(sys.argv[1]) as file:
    fcntl.lockf(file, fcntl.LOCK_SH)
    print("looking", flush=True)
    time.sleep(0.1)
"""


@contextmanager
def trained(run: RunDir) -> Iterator[subprocess.Popen[str]]:
    """Another process holds the run, as one that trains it does; until its standard input is closed."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", TRAINS, str(run.path)], text=True, **pipes) as process:
        assert process.stdout.readline() == "begun\n"
        yield process
        process.stdin.close()


def states(where: Path, more: str = "") -> dict[str, str]:
    """Name of a run's folder, without its time → its state."""
    found = json.loads(command(f"runs {where} --json {more}").stdout)
    return {Path(one["run"]).name.rsplit("-", 2)[0]: one["state"] for one in found}


def checkpoint(run: RunDir, number: int = 6) -> Path:
    folder = run.checkpoints / f"round-{number:08}"
    folder.mkdir()
    (folder / "state.safetensors").write_bytes(bytes(3_000_000))
    return folder


def test_every_state_and_the_last_word(tmp_path: Path) -> None:
    write_run(tmp_path, "whole")
    write_run(tmp_path, "killed", rounds=2)
    lost = write_run(tmp_path, "failed", rounds=3)
    write_json(lost.failure, {"error": "the disk is full", "ended": "2026-01-01T00:00:00+00:00"})
    far = write_run(tmp_path, "far", rounds=1)
    (far.path / "lock").write_text("another.machine\n")
    going = write_run(tmp_path, "going", rounds=4)
    with trained(going):
        found = states(tmp_path)
        lines = command(f"runs {tmp_path}").stdout.splitlines()
        only = states(tmp_path, "--state failed")
    assert found == {
        "whole": "finished", "killed": "stopped", "failed": "failed", "far": "elsewhere", "going": "running",
    }  # fmt: skip
    assert only == {"failed": "failed"}
    assert lines[0].split() == ["state", "rounds", "accuracy", "last", "written", "run"]
    (row,) = [place for place, line in enumerate(lines) if line.startswith("failed")]
    assert lines[row].split()[:4] == ["failed", "3/6", "50.0", "%"]
    assert lines[row].endswith(str(lost.path))
    assert lines[row + 1] == "    the disk is full"
    assert "    begun on another.machine" in lines
    assert states(tmp_path)["going"] == "stopped", "its process has ended"


def test_looking_at_runs_does_not_keep_one_from_beginning(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    with (
        (run.path / "lock").open("a+b") as held,  # as `is_in_use` holds it, for longer than it does
        subprocess.Popen([sys.executable, "-c", LOOKS, held.name], stdout=subprocess.PIPE) as looks,
    ):
        looks.stdout.readline()
        with pytest.raises(BlockingIOError):
            fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with run.exclusive_lock():
            assert run.host


def test_a_damaged_run_is_named_and_the_others_are_listed(tmp_path: Path) -> None:
    write_run(tmp_path, "whole")
    bad = write_run(tmp_path, "bad", rounds=2)
    bad.metrics.write_text("[]\n")
    result = command(f"runs {tmp_path}")
    assert result.exit_code == 0
    assert "whole" in result.stdout
    assert f"{bad.path} is left out: {bad.metrics}, line 1: no round" in result.stderr


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    refused_in_one_line(f"runs {tmp_path / 'none'}", "no run in", "`fedlens run` makes one")
    write_run(tmp_path)
    refused_in_one_line(f"runs {tmp_path} --state foo", "--state 'foo'", "finished")
    refused_in_one_line(f"watch {tmp_path / 'none'}", "does not exist")
    refused_in_one_line(f"clean {tmp_path / 'none'}", "no run in")


# -- a run that fails --------------------------------------------------------------------------------------------------


def test_a_run_that_fails_says_why_until_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Round 2 cannot be written; what is resumed then finishes."""
    monkeypatch.chdir(tmp_path)

    def one_line(path: Path, line: str) -> None:
        if path.stat().st_size:
            raise OSError(28, "No space left on device")
        append_line(path, line)

    with monkeypatch.context() as full:
        full.setattr("fedlens.tracking.metrics.append_line", one_line)
        assert command(f"run {SMALL} federated.num_rounds=2").exit_code == 1
    (one,) = json.loads(command("runs --json").stdout)
    assert one["state"] == "failed"
    assert "round 2 cannot be written (No space left on device)" in one["word"]
    refused_in_one_line("watch latest", "it failed: ", "round 2 cannot be written", "fedlens resume", status=1)
    assert command("resume latest").exit_code == 0
    (one,) = json.loads(command("runs --json").stdout)
    assert (one["state"], one["rounds"], one["word"]) == ("finished", 2, "all 2 rounds done")


# -- watch -------------------------------------------------------------------------------------------------------------


def test_watch_shows_what_is_done_then_what_comes_and_the_result(tmp_path: Path) -> None:
    run = write_run(tmp_path, rounds=2)
    with trained(run) as training:
        watches = subprocess.Popen(
            [sys.executable, "-m", "fedlens", "watch", str(run.path)], stdout=subprocess.PIPE, text=True
        )
        try:
            shown: list[str] = []
            while not any(line.startswith("  2/6") for line in shown):
                shown.append(watches.stdout.readline())
            with run.metrics.open("a") as file:
                file.write(to_json(line_of(record(3))) + "\n")
            while not any(line.startswith("  3/6") for line in shown):
                shown.append(watches.stdout.readline())
            run.finish("target reached")
            training.stdin.close()
            training.wait()
            rest = watches.communicate(timeout=30)[0]
        finally:
            watches.kill()
    rows = [line for line in shown if line.lstrip()[:2] in ("1/", "2/", "3/")]
    assert [row.split()[0] for row in rows] == ["1/6", "2/6", "3/6"], "each once"
    assert "    west: the loss is NaN\n" in shown
    assert "test accuracy" in rest
    assert watches.returncode == 0


def test_watch_ends_with_a_run_that_is_killed(tmp_path: Path) -> None:
    refused_in_one_line(
        f"watch {write_run(tmp_path, rounds=2).path}", "it was stopped. Go on with: fedlens resume", status=1
    )


def test_watch_shows_an_epsilon_without_noise(tmp_path: Path) -> None:
    """∞ is null in the file."""
    run = write_run(tmp_path, rounds=1)
    run.metrics.write_text(to_json(line_of(replace(record(1), measures={"privacy/epsilon": math.inf}))) + "\n")
    run.finish("done")
    shown = command(f"watch {run.path}").stdout
    header, row = (line.split() for line in shown.splitlines() if line.split()[:1] in (["round"], ["1/6"]))
    assert (header[-1], row[-1]) == ("ε", "∞")


def test_an_interrupted_watch_leaves_the_run_alone(tmp_path: Path) -> None:
    run = write_run(tmp_path, rounds=2)
    with trained(run):
        watches = subprocess.Popen(
            [sys.executable, "-m", "fedlens", "watch", str(run.path)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        while not watches.stdout.readline().startswith("  2/6"):
            pass
        os.kill(watches.pid, signal.SIGINT)
        _, error = watches.communicate(timeout=30)
        assert (watches.returncode, error) == (130, "Interrupted.\n")
        assert run.is_in_use


# -- clean -------------------------------------------------------------------------------------------------------------


def test_clean_removes_only_what_a_finished_run_does_not_need(tmp_path: Path) -> None:
    whole, killed = write_run(tmp_path, "whole"), write_run(tmp_path, "killed", rounds=2)
    personal, going = write_run(tmp_path, "personal"), write_run(tmp_path, "going")
    with personal.config.open("a") as file:
        file.write("personalization: {name: ditto}\n")
    kept = [checkpoint(run) for run in (whole, killed, personal, going)]
    with trained(going):
        assert [line.split() for line in command(f"clean {tmp_path} --yes").stdout.splitlines()] == [
            ["3.0", "MB", str(whole.path)],
            ["Removed:", "3.0", "MB."],
        ]
        assert [path.exists() for path in kept] == [False, True, True, True]
    assert states(tmp_path)["whole"] == "finished"
    assert command(f"compare {whole.path}").exit_code == 0
    refused = command(f"clean {killed.path}")
    assert refused.stdout == "Nothing to remove: no finished run has checkpoints that only a resume needs.\n"


def test_clean_asks_first(tmp_path: Path) -> None:
    kept = checkpoint(write_run(tmp_path))
    asked = CliRunner().invoke(app, ["clean", str(tmp_path)], input="n\n")
    assert "Remove the checkpoints of 1 finished run, 3.0 MB? [y/N]" in asked.stdout
    assert asked.stdout.endswith("Nothing was removed.\n")
    nobody = CliRunner().invoke(app, ["clean", str(tmp_path)])
    assert nobody.exit_code == 2
    assert "use --yes" in nobody.stderr
    assert kept.exists()
    assert CliRunner().invoke(app, ["clean", str(tmp_path)], input="y\n").exit_code == 0
    assert not kept.exists()


def test_a_cleaned_run_is_not_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To start over would erase its metrics."""
    monkeypatch.chdir(tmp_path)
    assert command(f"run {SMALL}").exit_code == 0
    assert command("clean --yes").exit_code == 0
    (run,) = Path("logs").iterdir()
    before = (run / "metrics.jsonl").read_bytes()
    refused_in_one_line("resume latest federated.num_rounds=2", "its checkpoints were removed", "fedlens run", status=1)
    assert (run / "metrics.jsonl").read_bytes() == before
    client = next(iter(json.loads((run / "partition.json").read_text())["clients"]))
    refused_in_one_line(f"predict latest photo.jpg --client {client}", "were removed", "leave the client out", status=1)
    assert states(Path("logs")) == {run.name.rsplit("-", 2)[0]: "finished"}


def test_a_lengthened_run_that_is_stopped_is_not_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(f"run {SMALL}").exit_code == 0
    (run,) = Path("logs").iterdir()
    longer = subprocess.Popen(
        [sys.executable, "-m", "fedlens", "resume", str(run), "federated.num_rounds=10000"], stdout=subprocess.DEVNULL
    )
    try:
        until(lambda: len((run / "metrics.jsonl").read_text().splitlines()) > 1, "a second round")
        assert RunDir(run).is_in_use
    finally:
        longer.kill()
        longer.wait()
    (one,) = json.loads(command("runs --json").stdout)
    assert (one["state"], one["planned"]) == ("stopped", 10000)
