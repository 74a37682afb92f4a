"""Leave-one-out: contributions are what the model would be without each update, whatever the rule and the strategy."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.helpers import CPU, Memory, infos, tiny_model, tiny_trainer
from tests.personalization.federations import skewed
from tests.runs import run

from fedlens.aggregation.krum import Krum
from fedlens.aggregation.mean import MeanRule
from fedlens.aggregation.median import Median
from fedlens.core.records import Evaluation
from fedlens.core.types import PartialSum, Task, TaskSettings
from fedlens.federation.bookkeeping import Bookkeeping
from fedlens.federation.checkpoints import Checkpoint, Checkpoints
from fedlens.federation.coordinator import Coordinator, RunPlan
from fedlens.federation.leave_one_out import LeaveOneOut
from fedlens.federation.sampling import ClientSampler
from fedlens.models.base import Preprocessing, prepare
from fedlens.runtimes.in_process import InProcessRuntime
from fedlens.strategies.adaptive import FedAdam
from fedlens.strategies.fedavg import FedAvg
from fedlens.tracking.metrics import read_metrics
from fedlens.training.algorithm import Algorithm
from fedlens.training.evaluation import evaluate
from fedlens.training.examples import Examples
from fedlens.training.flat import FlatModel
from fedlens.training.settings import LocalSettings

DATA = skewed(4)
SETTINGS = LocalSettings(batch_size=4)
PLAN = RunPlan(3, ClientSampler(1.0, 2, seed=0), lr=lambda _round: 0.3, evaluate_every=0, leave_one_out=2)
PREPARE = functools.partial(prepare, how=Preprocessing(8, 1))


def accuracy_of(shared) -> Evaluation:
    """On all clients' training images, for a fine measure."""
    model = FlatModel(tiny_model(), CPU)
    model.load(shared)
    rows = np.concatenate([client.train for client in DATA.clients])
    return evaluate(model.module, Examples(DATA, rows, PREPARE, CPU), 3)


class Watched(InProcessRuntime):
    """Keeps what comes back."""

    def completed(self, timeout=None):
        for outcome in super().completed(timeout):
            self.seen = [*getattr(self, "seen", []), outcome]
            yield outcome


def by_accuracy(checkpoint: Checkpoint) -> Evaluation:
    return accuracy_of(checkpoint.state.shared)


def rounds(folder, plan=PLAN, strategy=None, rule=None, validation=by_accuracy):
    strategy, rule = strategy or FedAvg(), rule or MeanRule()
    trainer = tiny_trainer(Algorithm(strategy, rule=rule), DATA, folder / "clients", SETTINGS)
    memory, runtime = Memory(), Watched(infos(DATA), lambda: trainer)
    books = Bookkeeping([memory], Checkpoints(folder / "checkpoints"))
    coordinator = Coordinator(
        plan,
        strategy,
        runtime,
        trainer.model.trainable,
        books,
        lambda ctx, _kept: rule.aggregator(ctx.trainable),
        validation=validation,
    )
    try:
        end = coordinator.run(Checkpoint(0, strategy.init(trainer.model.state())))
    finally:
        books.close()
    return end, memory.records, runtime.seen


def test_it_is_the_accuracy_lost_without_the_update(tmp_path) -> None:
    """FedAvg by hand: the model plus the mean of the others' updates, equal in size."""
    before, _, _ = rounds(tmp_path / "first", replace(PLAN, num_rounds=1))
    end, (_, second), _ = rounds(tmp_path / "both", replace(PLAN, num_rounds=2))
    trainer = tiny_trainer(FedAvg(), DATA, tmp_path / "again", SETTINGS)
    shared = before.state.shared
    deltas = {
        client.name: trainer.run(Task(client.name, 2, "train", shared, TaskSettings(0.3))).payload
        for client in DATA.clients
    }
    whole, found = accuracy_of(end.state.shared).accuracy, {}
    for client in deltas:
        rest = [delta for name, delta in deltas.items() if name != client]
        without = {name: value + sum(delta[name] for delta in rest) / len(rest) for name, value in shared.items()}
        found[client] = whole - accuracy_of(without).accuracy
    assert second.contributions == pytest.approx(found)
    assert any(found.values()), "the test would show nothing"


def test_only_every_kth_round_and_it_changes_nothing(tmp_path) -> None:
    """The other rounds' updates are added up where they are trained, and the models are the same to the bit."""
    plain, _, added = rounds(tmp_path / "plain", replace(PLAN, leave_one_out=0))
    end, records, single = rounds(tmp_path / "measured")
    assert [bool(record.contributions) for record in records] == [False, True, False]
    assert all(torch.equal(value, end.state.shared[name]) for name, value in plain.state.shared.items())
    assert [isinstance(one, PartialSum) for one in added] == [True] * 3
    assert [isinstance(one, PartialSum) for one in single] == [True, *[False] * 4, True]


@pytest.mark.parametrize("strategy", [FedAdam(server_lr=0.1)])
@pytest.mark.parametrize("rule", [MeanRule(), Median()])
def test_other_strategies_and_rules(strategy, rule, tmp_path) -> None:
    """The server's step again, from the state that the round began with; that state is not changed by it."""
    plain, _, _ = rounds(tmp_path / "plain", replace(PLAN, leave_one_out=0), strategy, rule)
    end, records, _ = rounds(tmp_path / "measured", replace(PLAN, leave_one_out=1), strategy, rule)
    assert all(len(record.contributions) == 4 for record in records)
    for one, other in ((plain.state.shared, end.state.shared), (plain.state.extra, end.state.extra)):
        assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_without_one_too_few_may_be_left(tmp_path) -> None:
    """Krum needs three updates: of two it says nothing, and the round stays as it is."""
    plan = replace(PLAN, sampler=ClientSampler(0.75, 1, seed=0), leave_one_out=1)
    _, records, _ = rounds(tmp_path, plan, rule=Krum(f=0))
    assert all(len(record.reports) == 3 and not record.contributions for record in records)


def test_a_single_client_cannot_be_left_out(tmp_path) -> None:
    plan = replace(PLAN, sampler=ClientSampler(0.25, 1, seed=0), leave_one_out=1)
    _, records, _ = rounds(tmp_path, plan)
    assert all(len(record.reports) == 1 and not record.contributions for record in records)


def test_without_validation_images_nothing_is_kept_or_asked_for(tmp_path) -> None:
    """Updates are added up where they are trained, as always."""
    _, records, seen = rounds(tmp_path, replace(PLAN, leave_one_out=1), validation=None)
    assert not any(record.contributions for record in records)
    assert all(isinstance(one, PartialSum) for one in seen)


def test_the_updates_are_not_kept_after_their_round(tmp_path, monkeypatch) -> None:
    made: list[LeaveOneOut] = []

    def counted(self: LeaveOneOut, *given) -> None:
        made.append(self)
        begin(self, *given)

    begin = LeaveOneOut.__init__
    monkeypatch.setattr(LeaveOneOut, "__init__", counted)
    rounds(tmp_path, replace(PLAN, num_rounds=2))
    assert [one._results for one in made] == [[]]


def test_it_has_a_phase_of_its_own(tmp_path) -> None:
    _, records, _ = rounds(tmp_path)
    assert ["leave_one_out" in record.seconds for record in records] == [False, True, False]


def test_a_whole_run_writes_them_and_its_report_draws_them(tmp_path) -> None:
    """In worker processes, which would add up otherwise."""
    settings = (
        "tracking.leave_one_out=2",
        "runtime.workers=2",
        "data.partition.clients=9",
        "data.partition.scheme=iid",
    )
    found = run(tmp_path, *settings, "tracking.report=true")
    lines = read_metrics(found.folder / "metrics.jsonl")
    cohorts = [{one["client"] for one in line["cohort"]} for line in lines]
    assert [set(line["contributions"]) for line in lines] == [set(), cohorts[1], set()]
    assert len(cohorts[1]) == 2
    assert 'id="contribution"' in (found.folder / "report.html").read_text()
