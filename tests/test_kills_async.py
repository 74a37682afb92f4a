"""The same of asynchronous runs on a virtual clock: pending tasks and client stores continue, too."""

import os
import signal
from pathlib import Path

import pytest
from tests.test_kills import (
    BASE,
    COHORTS,
    MOMENTS,
    WORKERS,
    assert_same,
    finish,
    lines_written,
    only_run,
    result,
    start,
    wait_for,
)

pytestmark = pytest.mark.slow

CLOCK = ("clock.name=half_normal", "clock.dropout=0.1", "clock.available=0.8", "clock.cycle=7")
RUNS = {
    "fedbuff": (*BASE, *WORKERS, *CLOCK, "schedule.name=fedbuff", "schedule.buffer_size=3", "schedule.concurrency=6"),
    "fedasync": (*BASE, *COHORTS, *CLOCK, "strategy.name=fedprox", "schedule.name=fedasync", "runtime.name=in_process"),
}


@pytest.fixture(scope="module", params=RUNS)
def whole(request, tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[str, ...], tuple[bytes, list[dict]]]:
    """A run's settings, and what it gives undisturbed."""
    base = tmp_path_factory.mktemp(request.param)
    finish(start("run", *RUNS[request.param], f"tracking.dir={base}"))
    return RUNS[request.param], result(only_run(base))


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_resumed_is_the_uninterrupted_run(tmp_path: Path, whole, moment: str) -> None:
    settings, undisturbed = whole
    process = start("run", *settings, f"tracking.dir={tmp_path}")
    wait_for(process, MOMENTS[moment](tmp_path))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=20)
    finish(start("resume", str(only_run(tmp_path))))
    assert_same(only_run(tmp_path), undisturbed)


def test_killed_again_and_again(tmp_path: Path, whole) -> None:
    settings, undisturbed = whole
    process = start("run", *settings, f"tracking.dir={tmp_path}")
    for count in (1, 3, 5, 6):
        wait_for(process, lines_written(tmp_path, count))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=20)
        process = start("resume", str(only_run(tmp_path)))
    finish(process)
    assert_same(only_run(tmp_path), undisturbed)
