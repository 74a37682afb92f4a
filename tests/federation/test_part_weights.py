"""A client's weight may differ by part of the model: clients that hold nothing for a part do not count in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from tests.flower.answers import EXPECTED, MODEL, answer, received
from tests.helpers import Memory, infos, plain_mean, tiny_data, tiny_trainer
from tests.problems import refuses

from fedlens.aggregation.mean import WeightedMean
from fedlens.core.types import ClientReport, ClientResult, Task, TaskSettings, part_of
from fedlens.errors import Code, ProtocolError
from fedlens.federation.bookkeeping import Bookkeeping
from fedlens.federation.checkpoints import Checkpoint, Checkpoints
from fedlens.federation.coordinator import Coordinator, RunPlan
from fedlens.federation.sampling import ClientSampler
from fedlens.flower.expectation import OWN_METRICS, expectation
from fedlens.runtimes.local import LocalRuntime
from fedlens.strategies.fedavg import FedAvg
from fedlens.strategies.fedavgm import FedAvgM
from fedlens.training.algorithm import Algorithm
from fedlens.training.settings import LocalSettings
from fedlens.training.tasks.base import ServerView

DATA = tiny_data(clients=4)
SETTINGS = LocalSettings(batch_size=4)
HEADS = frozenset({"client1", "client3"})


@dataclass(frozen=True)
class SomeTrainHeads(FedAvgM):
    """Only clients in `heads` have labels for the head, until round `until`; after that nobody has."""

    heads: frozenset[str] = HEADS
    until: int = 99
    weighs_parts = True

    def finish(self, ctx, delta):
        weight = float(ctx.examples) if ctx.client in self.heads and ctx.round <= self.until else 0.0
        return replace(super().finish(ctx, delta), part_weights={"head": weight})


def result(client: str, value: float, weight: float, **parts: float) -> ClientResult:
    payload = {name: torch.tensor([value]) for name in ("body.w", "head.w", "header")}
    return ClientResult(1, "train", ClientReport(client, weight, {}, part_weights=parts), payload)


RESULTS = [result("a", 1.0, 10, head=0), result("b", 2.0, 30, head=3), result("c", 6.0, 40, head=1)]


def test_the_longest_part_is_meant() -> None:
    parts = ["head", "head.top", "body"]
    names = ["head", "head.w", "head.top.w", "header.w", "stem"]
    assert [part_of(name, parts) for name in names] == ["head", "head", "head.top", None, None]


@pytest.mark.parametrize("merged", [False, True])
def test_the_mean_by_hand(merged: bool) -> None:
    whole, other = WeightedMean(), WeightedMean()
    for one in RESULTS[:2]:
        whole.add(one)
    (other if merged else whole).add(RESULTS[2])
    if merged:
        whole.merge(other.partial(1))
    total = whole.result()
    assert total is not None
    mean = (10 * 1 + 30 * 2 + 40 * 6) / 80
    expected = {"body.w": mean, "head.w": (3 * 2 + 1 * 6) / 4, "header": mean}
    assert {name: value.item() for name, value in total.delta.items()} == pytest.approx(expected)
    assert total.weight == 80


def test_a_part_without_weight_has_no_update() -> None:
    mean = WeightedMean()
    mean.add(RESULTS[0])
    total = mean.result()
    assert total is not None
    assert sorted(total.delta) == ["body.w", "header"]


def federation(folder, strategy, workers: int, rounds: int = 3):
    make = partial(tiny_trainer, strategy, DATA, folder / "clients", SETTINGS)
    runtime = LocalRuntime(infos(DATA), make, workers=workers, threads_per_worker=1, start_method="fork")
    trainer, memory = make(), Memory()
    books = Bookkeeping([memory], Checkpoints(folder / "checkpoints"))
    plan = RunPlan(rounds, ClientSampler(1.0, 4, seed=3), lambda _round: 0.1)
    coordinator = Coordinator(plan, strategy, runtime, trainer.model.trainable, books, plain_mean)
    first = Checkpoint(0, strategy.init(trainer.model.state()))
    try:
        return first, coordinator.run(first)
    finally:
        books.close()
        runtime.close()


def test_workers_add_up_what_one_process_does(tmp_path) -> None:
    _, one = federation(tmp_path / "one", SomeTrainHeads(), workers=1)
    _, two = federation(tmp_path / "two", SomeTrainHeads(), workers=2)
    for name, value in one.state.shared.items():
        assert torch.allclose(value, two.state.shared[name], atol=1e-5), name


def test_a_part_that_nobody_trained_stays_and_so_does_its_momentum(tmp_path) -> None:
    _, trained = federation(tmp_path / "a", SomeTrainHeads(until=1), workers=1, rounds=1)
    _, after = federation(tmp_path / "b", SomeTrainHeads(until=1), workers=1, rounds=3)
    for name in trained.state.shared:
        stays = name.startswith("head.")
        assert torch.equal(trained.state.shared[name], after.state.shared[name]) is stays, name
        if name in ("head.weight", "backbone.0.weight"):
            assert torch.equal(trained.state.extra[name], after.state.extra[name]) is stays, name


def test_the_head_comes_from_those_that_count(tmp_path) -> None:
    first, end = federation(tmp_path / "a", SomeTrainHeads(heads=frozenset({"client1"})), workers=1, rounds=1)
    task = Task("client1", 1, "train", first.state.shared, TaskSettings(lr=0.1))
    alone = tiny_trainer(FedAvg(), DATA, tmp_path / "c", SETTINGS).run(task)
    assert isinstance(alone, ClientResult)
    for name, value in first.state.shared.items():
        if name.startswith("head."):
            assert torch.allclose(end.state.shared[name], value + alone.payload[name], atol=1e-6)


def test_a_server_expects_the_parts_that_its_strategy_weighs(tmp_path) -> None:
    trainer = tiny_trainer(SomeTrainHeads(), DATA, tmp_path, SETTINGS)
    shared = trainer.model.state()
    view = ServerView(trainer.model, shared, Algorithm(SomeTrainHeads()), SETTINGS, 3, OWN_METRICS)
    task = Task("client1", 1, "train", shared, TaskSettings(lr=0.1))
    expected = expectation(view)(task, infos(DATA)[1])
    sent = trainer.run(task)
    assert isinstance(sent, ClientResult)
    assert received(sent, expected, task).report.part_weights == {"head": 12.0}


@pytest.mark.parametrize(
    ("sent", "wrong"),
    [
        ({}, "weights of the parts none instead of head"),
        ({"head": 1.0, "conv": 1.0}, "weights of the parts conv, head instead of head"),
        ({"head": -1.0}, "a weight of -1 for head, but the site has reported 10 images"),
        ({"head": 10.5}, "a weight of 10.5 for head"),
        ({"head": float("nan")}, "a weight of nan for head"),
        ({"head": float("inf")}, "a weight of inf for head"),
    ],
)
def test_weights_of_parts_that_cannot_be_honest(sent: dict[str, float], wrong: str) -> None:
    with pytest.raises(ProtocolError, match=wrong):
        received(answer(MODEL, part_weights=sent), replace(EXPECTED, parts=frozenset({"head"})))


@pytest.mark.parametrize(
    ("declared", "parts", "code"),
    [(False, {"head": 1.0}, "contradiction"), (True, {"tail": 1.0}, "unknown_name")],
)
def test_what_a_strategy_gives_is_checked(declared: bool, parts, code: Code, tmp_path) -> None:
    class Wrong(FedAvg):
        weighs_parts = declared

        def finish(self, ctx, delta):
            return replace(super().finish(ctx, delta), part_weights=parts)

    trainer = tiny_trainer(Wrong(), DATA, tmp_path, SETTINGS)
    with refuses((code, "strategy.name")):
        trainer.run(Task("client0", 1, "train", trainer.model.state(), TaskSettings(lr=0.1)))
