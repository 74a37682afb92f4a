"""Real processes, really killed: what is resumed ends as if nothing had happened, in synchronous and asynchronous runs.
In the latter, pending tasks and client stores continue, too."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import psutil
import pytest
from tests.started import Started

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
CLOCK = ("clock.name=half_normal", "clock.dropout=0.1", "clock.available=0.8", "clock.cycle=7")
GROUPS = ("federated.fraction_fit=0.5", "privacy.sampling=cyclic", "privacy.insecure_seed=1", "data.validation=0")
RUNS = {
    "synchronous": SETTINGS,
    "ditto": (*SETTINGS, "personalization.name=ditto"),  # models of their own, a round ahead when all is killed
    "fedbuff": (*BASE, *WORKERS, *CLOCK, "schedule.name=fedbuff", "schedule.buffer_size=3", "schedule.concurrency=6"),
    "fedasync": (*BASE, *COHORTS, *CLOCK, "strategy.name=fedprox", "schedule.name=fedasync", "runtime.name=in_process"),
    "secure": (*SETTINGS, "privacy.secure_aggregation=true"),
    "dp_ftrl": (*BASE, *WORKERS, *GROUPS, "privacy.mode=central", "privacy.mechanism=dp_ftrl"),
    "local": (*BASE, *WORKERS, *GROUPS, "privacy.mode=local", "privacy.noise_multiplier=0.01"),
}

Result = tuple[bytes, list[dict]]


def finish(process: Started) -> str:
    status, output = process.ended()
    assert status == 0, output
    return output


def only_run(base: Path) -> Path:
    (folder,) = base.glob("*/config.yaml")
    return folder.parent


def result(folder: Path) -> Result:
    lines = read_metrics(folder / "metrics.jsonl")
    for line in lines:
        del line["seconds"]
        for client in line["cohort"]:
            for timed in ("seconds", "data_share"):
                client["metrics"].pop(timed, None)
    return (folder / "model" / "model.safetensors").read_bytes(), lines


def assert_same(folder: Path, undisturbed: Result) -> None:
    weights, lines = result(folder)
    for found, expected in zip(lines, undisturbed[1], strict=True):
        assert found == expected
    assert weights == undisturbed[0]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Result]:
    """What a run of `RUNS` gives when it is left alone."""

    @cache
    def left_alone(run: str) -> Result:
        base = tmp_path_factory.mktemp(run)
        finish(Started("run", *RUNS[run], f"tracking.dir={base}"))
        return result(only_run(base))

    return left_alone


def wait_for(running: Callable[[], bool], condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert running(), "ended before the moment came"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def lines_written(base: Path, count: int) -> Callable[[], bool]:
    def reached() -> bool:
        return any(path.read_bytes().count(b"\n") >= count for path in base.glob("*/metrics.jsonl"))

    return reached


def checkpoint_being_written(base: Path, number: int) -> Callable[[], bool]:
    return lambda: any(base.glob(f"*/checkpoints/round-{number:08d}*"))


def killed(base: Path, run: str, moment: Callable[[], bool], kill: Callable[[int, int], None] = os.killpg) -> Path:
    """The folder of a new run that was killed at that moment."""
    process = Started("run", *RUNS[run], f"tracking.dir={base}")
    wait_for(lambda: process.running, moment)
    kill(process.pid, signal.SIGKILL)
    process.ended(20)  # only when the workers that share its output have ended, too
    return only_run(base)


MOMENTS = {
    "before the first round": lambda base: lambda: any(base.glob("*/metrics.jsonl")),
    "after a line, before or in its checkpoint": lambda base: lines_written(base, 1),
    "in the middle": lambda base: lines_written(base, 4),
    "as a checkpoint appears": lambda base: checkpoint_being_written(base, 3),
    "in the last round": lambda base: lines_written(base, ROUNDS - 1),
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(
    ("run", "kill"),
    [("synchronous", os.killpg), ("synchronous", os.kill), ("fedbuff", os.killpg), ("fedasync", os.killpg)],
    ids=["all processes", "the coordinator", "fedbuff", "fedasync"],
)
def test_killed_and_resumed_is_the_uninterrupted_run(tmp_path, undisturbed, run: str, kill, moment: str) -> None:
    folder = killed(tmp_path, run, MOMENTS[moment](tmp_path), kill)
    finish(Started("resume", str(folder)))
    assert_same(folder, undisturbed(run))


@pytest.mark.parametrize("run", ["synchronous", "fedbuff", "fedasync", "secure"])
def test_killed_again_and_again(tmp_path, undisturbed, run: str) -> None:
    kill_again_and_again(tmp_path, run)
    assert_same(only_run(tmp_path), undisturbed(run))


@pytest.mark.parametrize(("run", "ledgers"), [("dp_ftrl", "privacy.jsonl"), ("local", "clients/*/privacy.jsonl")])
def test_privacy_that_was_spent_is_never_forgotten(tmp_path, undisturbed, run: str, ledgers: str) -> None:
    """With an `insecure_seed` a round that is done again has the same noise, so the model is that of an undisturbed
    run, and nothing in a ledger is ever less than before."""
    seen: dict[Path, int] = {}

    def look(folder: Path) -> None:
        found = {path: path.read_bytes().count(b"\n") for path in folder.glob(ledgers)}
        assert found
        assert all(found[path] >= lines for path, lines in seen.items())
        seen.update(found)

    kill_again_and_again(tmp_path, run, look)
    folder = only_run(tmp_path)
    look(folder)
    weights, lines = result(folder)
    expected, alike = undisturbed(run)
    assert weights == expected
    spent = [line["measures"]["privacy/epsilon"] for line in lines]
    assert spent == sorted(spent)
    assert all(found >= line["measures"]["privacy/epsilon"] for found, line in zip(spent, alike, strict=True))


def kill_again_and_again(tmp_path: Path, run: str, look: Callable[[Path], None] = lambda _folder: None) -> None:
    """Four times on its way to the end; `look` is called with the run's folder after each."""
    process = Started("run", *RUNS[run], f"tracking.dir={tmp_path}")
    for count in (1, 3, 5, 6):
        wait_for(lambda: process.running, lines_written(tmp_path, count))  # noqa: B023 - called at once
        os.killpg(process.pid, signal.SIGKILL)
        process.ended(20)
        look(only_run(tmp_path))
        process = Started("resume", str(only_run(tmp_path)))
    finish(process)


def test_what_clients_keep_survives_with_the_run(tmp_path, undisturbed) -> None:
    folder = killed(tmp_path, "ditto", lines_written(tmp_path, 4))
    finish(Started("resume", str(folder)))
    assert_same(folder, undisturbed("ditto"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("send", [os.killpg, os.kill], ids=["to all", "to the command"])
def test_a_signal_saves_says_how_to_go_on_and_goes_on(tmp_path, undisturbed, number, send) -> None:
    """Sent to an interpreter of its own: how that ends is part of what is tested."""
    command = [sys.executable, "-m", "fedlens", "run", *SETTINGS, f"tracking.dir={tmp_path}"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    wait_for(lambda: process.poll() is None, lines_written(tmp_path, 3))
    children = psutil.Process(process.pid).children(recursive=True)
    send(process.pid, number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert "Traceback" not in output
    folder = only_run(tmp_path)
    assert f"fedlens resume {folder}" in output
    finish(Started("resume", str(folder)))
    assert_same(folder, undisturbed("synchronous"))


def test_a_run_in_progress_is_not_gone_on_with(tmp_path, undisturbed) -> None:
    process = Started("run", *SETTINGS, f"tracking.dir={tmp_path}")
    wait_for(lambda: process.running, lines_written(tmp_path, 2))
    os.kill(process.pid, signal.SIGSTOP)  # so that it is still there when the second looks
    status, output = Started("resume", str(only_run(tmp_path))).ended(60)
    os.kill(process.pid, signal.SIGCONT)
    assert status == 2
    assert output.count("\n") == 1
    assert "another process is training this run" in output
    finish(process)
    assert_same(only_run(tmp_path), undisturbed("synchronous"))


def test_a_truncated_checkpoint_costs_one_round(tmp_path, undisturbed) -> None:
    folder = killed(tmp_path, "synchronous", lines_written(tmp_path, 5))
    newest = max(path for path in (folder / "checkpoints").glob("round-*") if not path.suffix)
    os.truncate(newest / "state.safetensors", 1000)
    output = finish(Started("resume", str(folder)))
    assert "is damaged" in output
    assert_same(folder, undisturbed("synchronous"))


def test_a_full_disk_stops_with_the_last_good_checkpoint(tmp_path, undisturbed) -> None:
    """A file system of 3 MB fills up after a few rounds; moved to a larger one, the run goes on."""
    small, large = tmp_path / "small", tmp_path / "large"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        (small / "ballast").write_bytes(bytes(1_300_000))
        status, output = Started("run", *SETTINGS, f"tracking.dir={small}").ended()
        assert status == 1, output
        assert "No space left on device" in output
        assert "Traceback" not in output
        subprocess.run(["cp", "-r", str(only_run(small)), str(large)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)
    finish(Started("resume", str(large), f"tracking.dir={tmp_path}"))
    assert_same(large, undisturbed("synchronous"))
