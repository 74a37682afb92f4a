"""A measurement is a real run in another process: its figures, and what its failures leave behind."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import torch

from fedlens.build.builders import build_data
from fedlens.build.load import load
from fedlens.measuring import measurement
from fedlens.measuring.expectation import Work, expect
from fedlens.measuring.measurement import Measurement, ShortRun, measure
from fedlens.session.run import UserObjects

QUIET = lambda _label: lambda _done, _all: None  # noqa: E731
SMALL = ["model.name=lenet", "federated.fraction_fit=0.2", "federated.local_epochs=1", "optimizer.lr=0.05"]


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def measured(*overrides: str, seconds: float = 0.5, limit: float = 60) -> Measurement:
    config = load(None, [*SMALL, *overrides], use="run")
    given = UserObjects(data=build_data(config, QUIET))
    return measure(config, seconds=seconds, ends=time.monotonic() + limit, rounds=3, given=given)


def test_a_run_is_measured_and_ended_and_nothing_is_left(temporary: Path) -> None:
    found = measured("federated.num_rounds=1000")
    assert found.failure is None and not found.ended
    assert len(found.rounds) >= 3
    assert [one.clients for one in found.rounds[:3]] == [False, True, False]
    assert found.memory > 50e6  # PyTorch alone takes more
    config = load(None, SMALL, use="run")
    expected = expect(found, Work.of(config, build_data(config, QUIET), 2))
    assert expected is not None and expected.whole > 0
    assert not list(temporary.iterdir())
    assert not [child for child in psutil.Process().children(recursive=True) if child.name().startswith("measure")]


def test_a_run_that_ends_early_is_known_as_far_as_it_went() -> None:
    found = measured("federated.num_rounds=2", seconds=60)
    assert found.ended and found.failure is None
    assert len(found.rounds) == 2


def test_a_run_that_fails_says_why() -> None:
    found = measured("memory.gradient_checkpointing=true")
    assert found.failure is not None and "lenet has no blocks to compute again" in found.failure


def test_a_run_that_the_system_kills_is_one_failed_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ShortRun, "__call__", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    assert measured().failure == "it was killed, perhaps by the system's memory guard"


def test_a_full_memory_is_one_failed_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    execute = measurement.execute

    def limited(*given):
        import resource

        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + 40_000_000, now + 40_000_000))
        return execute(*given)

    monkeypatch.setattr(measurement, "execute", limited)
    found = measured("model.name=resnet50", "runtime.name=in_process", limit=120)
    assert found.failure is not None and "memory is full" in found.failure


def test_it_ends_in_time() -> None:
    began = time.monotonic()
    found = measured("federated.num_rounds=1000", seconds=1000, limit=3)
    assert not found.ended
    assert time.monotonic() - began < 60


@pytest.mark.gpu
def test_a_gpu_s_memory_is_measured() -> None:
    config = load(None, [*SMALL, "runtime.device=cuda"], use="run")
    found = measure(config, seconds=1, ends=time.monotonic() + 120, rounds=2, start_method="spawn")
    assert found.failure is None
    assert 0 < found.gpu < torch.cuda.get_device_properties(0).total_memory
