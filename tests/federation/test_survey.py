"""The shared model on the clients' held-out images: the same numbers as on all of those images together."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from tests.helpers import CPU, infos, tiny_data, tiny_model, tiny_trainer

from fedlens.core.types import ClientFailure
from fedlens.federation.checkpoints import Checkpoint
from fedlens.federation.evaluator import FederatedEvaluator, added
from fedlens.models.base import Preprocessing, prepare
from fedlens.runtimes.in_process import InProcessRuntime
from fedlens.strategies.base import ServerState
from fedlens.strategies.fedavg import FedAvg
from fedlens.training.client import ClientTrainer
from fedlens.training.evaluation import evaluate
from fedlens.training.examples import Examples
from fedlens.training.flat import FlatModel
from fedlens.training.settings import LocalSettings

PREPARE = partial(prepare, how=Preprocessing(8, 1))


class Watched(InProcessRuntime):
    """Counts what is asked; `silent` clients do not answer."""

    silent: frozenset[str] = frozenset()

    def submit(self, tasks, enough=None) -> None:
        listed = list(tasks)
        self.asked = [*getattr(self, "asked", []), *(task.client for task in listed)]
        super().submit(listed, enough)

    def completed(self, timeout=None):
        for outcome in super().completed(timeout):
            lost = outcome.client in self.silent
            yield ClientFailure(outcome.client, outcome.round, "no answer", answered=False) if lost else outcome


def uneven(data):
    """Clients of different sizes, of which the last holds out nothing."""
    first, second, *middle, last = data.clients
    rows = np.concatenate([first.test, second.test])
    return replace(
        data,
        clients=(
            replace(first, test=rows[:1]),
            replace(second, test=rows[1:]),
            *middle,
            replace(last, test=last.test[:0], val=last.val[:0]),
        ),
    )


@pytest.fixture
def data():
    return uneven(tiny_data(clients=5))


@pytest.fixture
def runtime(data, tmp_path):
    return Watched(infos(data), lambda: tiny_trainer(FedAvg(), data, tmp_path, LocalSettings()))


def survey(runtime, *splits) -> FederatedEvaluator:
    return FederatedEvaluator(runtime, splits, lr=lambda _round: 0.1)


def stands(shared, versions=None, number: int = 1) -> Checkpoint:
    """A run after `number` rounds."""
    return Checkpoint(number, ServerState(shared), versions=versions or {})


def together(data, split: str, shared, clients=slice(None)):
    """The local evaluator on the rows of all clients."""
    model = FlatModel(tiny_model(), CPU)
    model.load(shared)
    rows = np.concatenate([getattr(client, split) for client in data.clients[clients]])
    return evaluate(model.module, Examples(data, rows, PREPARE, CPU), len(data.class_names))


@pytest.mark.parametrize("split", ["test", "val"])
@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_the_evaluation_of_all_rows_together(data, runtime, split: str, seed: int) -> None:
    shared = FlatModel(tiny_model(seed=seed), CPU).state()
    found = survey(runtime, "test", "val")(split, stands(shared))
    expected = together(data, split, shared)
    assert np.array_equal(found.confusion, expected.confusion)
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    assert (found.accuracy, found.examples) == (expected.accuracy, 8)


def test_one_exchange_serves_both_splits(runtime) -> None:
    score = survey(runtime, "test", "val")
    run = stands(FlatModel(tiny_model(), CPU).state())
    assert score("test", run) is not None
    assert score("val", run) is not None
    assert runtime.asked == ["client0", "client1", "client2", "client3"], "client4 holds out nothing"
    score("test", stands(FlatModel(tiny_model(seed=1), CPU).state()))
    assert len(runtime.asked) == 8


def test_only_what_is_asked_for_is_scored(data, runtime) -> None:
    score = survey(runtime, "val")
    run = stands(FlatModel(tiny_model(), CPU).state())
    assert score("test", run) is None
    assert score("val", run).examples == 8


def test_who_does_not_answer_is_left_out(data, runtime) -> None:
    runtime.silent = frozenset({"client1"})
    shared = FlatModel(tiny_model(), CPU).state()
    found = survey(runtime, "test")("test", stands(shared))
    others = together(replace(data, clients=(data.clients[0], *data.clients[2:])), "test", shared)
    assert np.array_equal(found.confusion, others.confusion)
    runtime.silent = frozenset(client.name for client in data.clients)
    assert survey(runtime, "test")("test", stands(shared)) is None


def test_nobody_holds_such_images(data, tmp_path) -> None:
    empty = replace(data, clients=tuple(replace(one, val=one.val[:0]) for one in data.clients))
    runtime = Watched(infos(empty), lambda: tiny_trainer(FedAvg(), empty, tmp_path, LocalSettings()))
    assert survey(runtime, "val")("val", stands(FlatModel(tiny_model(), CPU).state())) is None
    assert runtime.asked == []


def test_outputs_without_a_name_are_counted(data, tmp_path) -> None:
    """A head of five outputs over three classes: what is predicted beyond them is in the counts."""

    def trainer() -> ClientTrainer:
        made = tiny_trainer(FedAvg(), data, tmp_path, LocalSettings())
        made.model = FlatModel(tiny_model(classes=5), CPU)
        return made

    shared = FlatModel(tiny_model(classes=5), CPU).state()
    shared["head.bias"][4] = 100.0
    found = survey(Watched(infos(data), trainer), "test")("test", stands(shared))
    assert found.confusion.shape == (5, 5)
    assert found.confusion[:, 4].sum() == found.examples == 8
    assert found.accuracy == 0


def test_matrices_of_different_sizes_add_up() -> None:
    small, large = np.eye(2, dtype=np.int64), np.ones((3, 3), np.int64)
    assert added([small, large, small]).tolist() == [[3, 1, 1], [1, 3, 1], [1, 1, 1]]
    assert torch.equal(torch.from_numpy(small), torch.eye(2, dtype=torch.int64)), "what was added up is as it was"


def test_of_own_models_those_that_have_trained_and_do_not_attack_are_scored(data, runtime) -> None:
    """client0 attacks, client3 was never sampled: the validation is of client1 and client2."""
    score = FederatedEvaluator(runtime, ("val",), lambda _round: 0.1, personal=True, malicious=frozenset({"client0"}))
    shared = FlatModel(tiny_model(), CPU).state()
    found = score("val", stands(shared, dict.fromkeys(("client0", "client1", "client2"))))
    assert runtime.asked == ["client1", "client2"]
    assert np.array_equal(found.confusion, together(data, "val", shared, slice(1, 3)).confusion)
    assert score("val", stands(shared)) is None, "nobody has trained"


def test_own_models_are_held_against_each_clients_own_commonest_class(data, runtime) -> None:
    """The accuracy of a classifier that knows nothing but its client's training labels, on all validation images."""
    score = FederatedEvaluator(runtime, ("val",), lambda _round: 0.1, personal=True)
    found = score("val", stands(FlatModel(tiny_model(), CPU).state(), {one.name: None for one in data.clients}))
    right = images = 0
    for client in data.clients:
        named = np.bincount(data.labels[client.train].numpy()).argmax()
        right += int((data.labels[client.val].numpy() == named).sum())
        images += len(client.val)
    assert found.majority == pytest.approx(right / images)
    shared = survey(runtime, "val")("val", stands(FlatModel(tiny_model(), CPU).state()))
    assert shared.majority is None, "the coordinator knows the floor of a shared model"
