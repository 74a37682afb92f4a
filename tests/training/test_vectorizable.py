"""What cannot be vectorised: clients then train one after the other, and a note says why."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.helpers import tiny_data
from tests.runs import Clothes, separable
from tests.training.test_vectorized import network, ragged, trained, trainer
from torch import nn

import fedlens
from fedlens.core.types import Task
from fedlens.models.base import OwnObjective
from fedlens.personalization.ditto import Ditto
from fedlens.privacy.base import Federation
from fedlens.privacy.example import Example
from fedlens.strategies.fedavg import FedAvg
from fedlens.training.algorithm import Algorithm
from fedlens.training.sections import MemorySection
from fedlens.training.together import stacks


class Looking(nn.Module):
    """Decides by a number of the batch what it computes."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values * 2 if float(values.detach().sum()) > 0 else values


class Centred(nn.Module):
    """Rows of a batch depend on each other, without a layer that says so."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values - values.mean(0, keepdim=True)


class Remembering(nn.Module):
    """Adds up what it has seen in a tensor of its own, which all clients would share."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        self.seen += values.detach().mean()
        return values * self.seen


class Cumulative(nn.BatchNorm1d):
    def __init__(self) -> None:
        super().__init__(32, momentum=None)


class OwnLoss(OwnObjective):
    def objective(self, inputs, labels, cross_entropy):
        raise NotImplementedError

    def classes_and_features(self):
        return 3, 16


def own_loss() -> OwnLoss:
    model = network()
    return OwnLoss(model.backbone, model.head, model.preprocessing)


WITH_TEXTS = dataclasses.replace(ragged(), text_inputs=torch.zeros(tiny_data(5).images.shape[0], 3))

OBSTACLES = {
    "privacy": (
        {"algorithm": Algorithm(FedAvg(), dp_sgd=Example().dp_sgd(Federation(3, rounds=1, fraction=1.0)))},
        "privacy.mode",
    ),
    "personalization": ({"algorithm": Algorithm(FedAvg(), Ditto())}, "personalization.name: Ditto"),
    "objective": ({"model": own_loss()}, "model.name: this model has a loss of its own"),
    "texts": ({"data": WITH_TEXTS}, "model.name: this model reads texts"),
    "fp16": ({"memory": MemorySection(precision="fp16")}, "memory.precision=fp16"),
    "pieces": ({"memory": MemorySection(micro_batch=2)}, "memory.micro_batch"),
    "checkpointing": ({"memory": MemorySection(gradient_checkpointing=True)}, "memory.gradient_checkpointing"),
    "mixup": ({"mixup": 0.2}, "optimizer.mixup"),
    "few": ({"data": ragged((1, 1, 1))}, "fewer than 8 images"),
    "draws": ({"model": network("none", nn.AlphaDropout(0.5))}, r"several clients at once \(vmap: .*random"),
    "numbers": ({"model": network("none", Looking())}, r"several clients at once \(vmap: .*item\(\)"),
    "buffer": ({"model": network("none", Remembering())}, r"several clients at once \(output with shape"),
    "cumulative": ({"model": network("none", Cumulative())}, r"several clients at once \(vmap: .*item\(\)"),
}


@pytest.mark.parametrize(("more", "text"), OBSTACLES.values(), ids=OBSTACLES)
def test_what_cannot_be_vectorised(more: dict, text: str, tmp_path) -> None:
    one = trainer(tmp_path, vectorize=3, **more)
    before, draws = one.model.state(), torch.get_rng_state()
    with pytest.raises(AssertionError, match=text):
        assert one.vectorizing.obstacle is None, one.vectorizing.obstacle
    assert "\n" not in one.vectorizing.obstacle
    tasks = [Task(client.name, 1, "train", {}) for client in one._data.clients]
    assert stacks(one, tasks) == [[task] for task in tasks]
    assert all(torch.equal(value, one.model.state()[name]) for name, value in before.items())
    assert torch.equal(draws, torch.get_rng_state())


@pytest.mark.parametrize("model", [network, lambda: network("group")], ids=["plain", "group"])
def test_what_can_be_vectorised_is_tried_without_a_trace(model, tmp_path) -> None:
    one, untouched = trainer(tmp_path, vectorize=3, model=model()), trainer(tmp_path, model=model())
    draws = torch.get_rng_state()
    assert one.vectorizing.obstacle is None
    assert one.vectorizing.pads
    assert torch.equal(draws, torch.get_rng_state())
    for name, value in untouched.model.module.state_dict().items():
        assert torch.equal(value, one.model.module.state_dict()[name]), name


@pytest.mark.parametrize("model", [lambda: network("batch"), lambda: network("none", Centred())], ids=["norm", "own"])
def test_batches_whose_rows_depend_on_each_other_are_not_padded(model, tmp_path) -> None:
    """Also where no layer says that they do, and where what follows them is 0 at first."""
    built = model()
    nn.init.zeros_(built.head.weight)
    one = trainer(tmp_path, vectorize=3, model=built)
    assert one.vectorizing.obstacle is None
    assert not one.vectorizing.pads
    assert trained(one, rounds=1).keys() == {f"client{index}" for index in range(5)}


def test_other_tasks_are_done_one_by_one(tmp_path) -> None:
    one = trainer(tmp_path, vectorize=3)
    tasks = [Task(f"client{index}", 1, "evaluate", {}) for index in range(5)]
    assert stacks(one, tasks) == [[task] for task in tasks]


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ((), None),
        (("optimizer.mixup=0.2",), "clients train one after the other: optimizer.mixup"),
        (("schedule.name=fedbuff",), "clients train one after the other: schedule.name=fedbuff"),
        (("privacy.secure_aggregation=true",), "clients train one after the other: privacy.secure_aggregation"),
    ],
    ids=["none", "mixup", "schedule", "secure"],
)
def test_a_note_says_once_why_nothing_is_vectorised(more, text: str | None, tmp_path, capsys) -> None:
    clients = {f"client{index}": separable(20, index) for index in range(4)}
    settings = ("runtime.vectorize=3", "runtime.name=in_process", "federated.num_rounds=1", "federated.fraction_fit=1")
    given = {"data": clients, "test": separable(10, 9), "model": Clothes()}
    fedlens.run(None, *settings, *more, f"tracking.dir={tmp_path}", "tracking.tensorboard=false", **given)
    shown = capsys.readouterr()
    told = " ".join((shown.out + shown.err).split())
    assert told.count("runtime.vectorize=3 has no effect") == (text is not None)
    assert text is None or text in told
    assert ("3 clients of a worker train together" in told) == (text is None)
