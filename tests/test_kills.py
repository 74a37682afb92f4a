"""Real processes, really killed: what is resumed ends as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from fedlens.tracking.metrics import read_metrics

pytestmark = pytest.mark.slow

ROUNDS = 8
BASE = (
    "model.name=lenet",
    "optimizer.lr=0.05",
    f"federated.num_rounds={ROUNDS}",
    "federated.evaluate_clients_every=3",
    "strategy.name=fedavgm",
    "optimizer.keep=true",  # the clients' own files must go back with the server
    "tracking.tensorboard=false",
    "tracking.report=false",
)
COHORTS = ("federated.fraction_fit=0.4",)
WORKERS = ("runtime.workers=2",)
SETTINGS = (*BASE, *COHORTS, *WORKERS)
FEDLENS = (sys.executable, "-c", "from fedlens.cli.main import main; main()")


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*FEDLENS, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    try:
        output, _ = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == 0, output
    return output


def only_run(base: Path) -> Path:
    (folder,) = base.glob("*/config.yaml")
    return folder.parent


def result(folder: Path) -> tuple[bytes, list[dict]]:
    lines = read_metrics(folder / "metrics.jsonl")
    for line in lines:
        del line["seconds"]
        for client in line["cohort"]:
            client["metrics"].pop("seconds")
    return (folder / "model" / "model.safetensors").read_bytes(), lines


def assert_same(folder: Path, undisturbed: tuple[bytes, list[dict]]) -> None:
    weights, lines = result(folder)
    for found, expected in zip(lines, undisturbed[1], strict=True):
        assert found == expected
    assert weights == undisturbed[0]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[dict]]:
    base = tmp_path_factory.mktemp("whole")
    finish(start("run", *SETTINGS, f"tracking.dir={base}"))
    return result(only_run(base))


def wait_for(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, f"ended before the moment came: {process.communicate()[0]}"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def lines_written(base: Path, count: int) -> Callable[[], bool]:
    def reached() -> bool:
        return any(path.read_bytes().count(b"\n") >= count for path in base.glob("*/metrics.jsonl"))

    return reached


def checkpoint_being_written(base: Path, number: int) -> Callable[[], bool]:
    return lambda: any(base.glob(f"*/checkpoints/round-{number:08d}*"))


MOMENTS = {
    "before the first round": lambda base: lambda: any(base.glob("*/metrics.jsonl")),
    "after a line, before or in its checkpoint": lambda base: lines_written(base, 1),
    "in the middle": lambda base: lines_written(base, 4),
    "as a checkpoint appears": lambda base: checkpoint_being_written(base, 3),
    "in the last round": lambda base: lines_written(base, ROUNDS - 1),
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("everything", [True, False], ids=["all processes", "the coordinator"])
def test_killed_and_resumed_is_the_uninterrupted_run(tmp_path, undisturbed, moment: str, everything: bool) -> None:
    process = start("run", *SETTINGS, f"tracking.dir={tmp_path}")
    wait_for(process, MOMENTS[moment](tmp_path))
    (os.killpg if everything else os.kill)(process.pid, signal.SIGKILL)
    process.communicate(timeout=20)  # ends only when the workers that share its output have ended, too
    finish(start("resume", str(only_run(tmp_path))))
    assert_same(only_run(tmp_path), undisturbed)


def test_killed_again_and_again(tmp_path, undisturbed) -> None:
    process = start("run", *SETTINGS, f"tracking.dir={tmp_path}")
    for count in (1, 3, 5, 6):
        wait_for(process, lines_written(tmp_path, count))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=20)
        process = start("resume", str(only_run(tmp_path)))
    finish(process)
    assert_same(only_run(tmp_path), undisturbed)


def test_what_clients_keep_survives_with_the_run(tmp_path) -> None:
    """Models of their own, of which the clients are a round ahead when everything is killed."""
    settings = (*SETTINGS, "personalization.name=ditto")
    finish(start("run", *settings, f"tracking.dir={tmp_path / 'whole'}"))
    cut = tmp_path / "cut"
    process = start("run", *settings, f"tracking.dir={cut}")
    wait_for(process, lines_written(cut, 4))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=20)
    finish(start("resume", str(only_run(cut))))
    assert_same(only_run(cut), result(only_run(tmp_path / "whole")))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("send", [os.killpg, os.kill], ids=["to all", "to the command"])
def test_a_signal_saves_says_how_to_go_on_and_goes_on(tmp_path, undisturbed, number, send) -> None:
    process = start("run", *SETTINGS, f"tracking.dir={tmp_path}")
    wait_for(process, lines_written(tmp_path, 3))
    children = psutil.Process(process.pid).children(recursive=True)
    send(process.pid, number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert "Traceback" not in output
    folder = only_run(tmp_path)
    assert f"fedlens resume {folder}" in output
    finish(start("resume", str(folder)))
    assert_same(folder, undisturbed)


def test_a_run_in_progress_is_not_gone_on_with(tmp_path, undisturbed) -> None:
    process = start("run", *SETTINGS, f"tracking.dir={tmp_path}")
    wait_for(process, lines_written(tmp_path, 2))
    process.send_signal(signal.SIGSTOP)  # so that it is still there when the second looks
    second = start("resume", str(only_run(tmp_path)))
    output, _ = second.communicate(timeout=60)
    process.send_signal(signal.SIGCONT)
    assert second.returncode == 2
    assert output.count("\n") == 1
    assert "another process is training this run" in output
    finish(process)
    assert_same(only_run(tmp_path), undisturbed)


def test_a_truncated_checkpoint_costs_one_round(tmp_path, undisturbed) -> None:
    process = start("run", *SETTINGS, f"tracking.dir={tmp_path}")
    wait_for(process, lines_written(tmp_path, 5))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=20)
    folder = only_run(tmp_path)
    newest = max(path for path in (folder / "checkpoints").glob("round-*") if not path.suffix)
    os.truncate(newest / "state.safetensors", 1000)
    output = finish(start("resume", str(folder)))
    assert "is damaged" in output
    assert_same(folder, undisturbed)


def test_a_full_disk_stops_with_the_last_good_checkpoint(tmp_path, undisturbed) -> None:
    """A file system of 3 MB fills up after a few rounds; moved to a larger one, the run goes on."""
    small, large = tmp_path / "small", tmp_path / "large"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        (small / "ballast").write_bytes(bytes(1_300_000))
        output, _ = (process := start("run", *SETTINGS, f"tracking.dir={small}")).communicate(timeout=200)
        assert process.returncode == 1, output
        assert "No space left on device" in output
        assert "Traceback" not in output
        subprocess.run(["cp", "-r", str(only_run(small)), str(large)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)
    finish(start("resume", str(large), f"tracking.dir={tmp_path}"))
    assert_same(large, undisturbed)
