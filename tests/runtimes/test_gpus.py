"""Which GPU each process has; none is needed here, because only what the processes may see is looked at."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.helpers import infos, tiny_data, tiny_trainer

from fedlens.core.machine import use_gpu
from fedlens.core.types import Task, TaskSettings
from fedlens.runtimes.local import LocalRuntime
from fedlens.strategies.fedavg import FedAvg
from fedlens.training.settings import LocalSettings

VISIBLE = "CUDA_VISIBLE_DEVICES"
DATA, SETTINGS = tiny_data(clients=3), LocalSettings(batch_size=4, epochs=1)


@pytest.mark.parametrize(("gpus", "seen"), [(2, ["0", "1", "0"]), (0, ["", "", ""])])
def test_workers_take_the_gpus_in_turn(gpus: int, seen: list[str], tmp_path: Path) -> None:
    def make():
        (tmp_path / str(os.getpid())).write_text(os.environ[VISIBLE])
        return tiny_trainer(FedAvg(), DATA, tmp_path / "store", SETTINGS)

    place = LocalRuntime(infos(DATA), make, workers=3, threads_per_worker=1, start_method="fork", gpus=gpus)
    try:
        model = tiny_trainer(FedAvg(), DATA, None, SETTINGS).model.state()
        place.submit(Task(client.name, 1, "train", model, TaskSettings(lr=0.1)) for client in place.clients())
        assert list(place.completed())
        found = [(tmp_path / str(process.pid)).read_text() for process, _ in place._workers]
    finally:
        place.close()
    assert found == seen


@pytest.mark.parametrize(("listed", "named"), [("", "1"), ("3,5", "5"), ("GPU-a,GPU-b", "GPU-b")])
def test_a_gpu_is_one_of_those_that_the_process_may_use(
    listed: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VISIBLE, listed)
    use_gpu(1)
    assert os.environ[VISIBLE] == named
