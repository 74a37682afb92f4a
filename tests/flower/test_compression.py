"""Compressed updates between a server and its sites."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.flower.stage import DATA, SETTINGS, SHARED, Stage, of, view
from tests.helpers import CPU, tiny_model, tiny_trainer

from fedlens.compression.half import Half
from fedlens.compression.quantize import Quantize
from fedlens.compression.topk import TopK
from fedlens.core.types import ClientResult, Task
from fedlens.flower.expectation import expectation
from fedlens.strategies.fedavg import FedAvg
from fedlens.training.algorithm import Algorithm
from fedlens.training.flat import FlatModel

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.parametrize("transform", [Half(down=True), Quantize(4), TopK(0.1)], ids=lambda one: one.name)
def test_a_server_takes_compressed_updates_of_sites(tmp_path: Path, transform) -> None:
    stage = Stage(tmp_path)
    algorithm = Algorithm(FedAvg(), encodings=(transform,))
    for index in range(2):
        trainer = tiny_trainer(algorithm, DATA, tmp_path / str(index), SETTINGS)
        stage.join(index, site=stage.site(index, trainer=trainer))
    seen = view(FlatModel(tiny_model(), CPU), SHARED, algorithm=algorithm)
    stage.open(2, expect=expectation(seen))
    outcomes = list(stage.train("client0", "client1", payload=algorithm.chain.encode_model(SHARED)))
    assert of(outcomes, ClientResult) == ["client0", "client1"], outcomes
    for outcome in outcomes:
        assert {name: value.dtype for name, value in outcome.payload.items()} == dict.fromkeys(SHARED, torch.float32)
        assert algorithm.chain.decode(outcome, SHARED) is outcome, "the check of the update has decoded it already"


def test_the_form_of_an_update_takes_no_memory() -> None:
    """It stays for the whole run, and would be a model more at the server."""
    seen = view(FlatModel(tiny_model(), CPU), SHARED)
    assert {name: (value.shape, value.device.type) for name, value in seen.forms.items()} == {
        name: (value.shape, "meta") for name, value in SHARED.items()
    }


def test_the_received_model_is_measured_once_for_a_payload() -> None:
    """Not for every client; another payload of the same round is measured anew."""
    seen = view(FlatModel(tiny_model(), CPU), SHARED)
    made: list[str] = []

    def make(name: str) -> str:
        made.append(name)
        return name

    other = {name: 2 * value for name, value in SHARED.items()}
    first, again = (Task(client, 1, "train", SHARED) for client in ("client0", "client1"))
    assert [seen.once_for_payload(task, lambda: make("one")) for task in (first, again)] == ["one", "one"]
    assert seen.once_for_payload(Task("client0", 1, "train", other), lambda: make("other")) == "other"
    assert made == ["one", "other"]
    norm = expectation(seen)(first, None).norm
    assert expectation(seen)(Task("client0", 2, "train", other), None).norm == pytest.approx(2 * norm)
