"""Sites that leave, come back, restart or are late, in rounds and with tasks that come and go one by one."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import torch
from tests.flower.fakes import silent
from tests.flower.stage import DATA, SETTINGS, SHARED, Stage, content, nan, of, only_failure
from tests.helpers import CPU, plain_mean, tiny_model, tiny_trainer

from fedlens.core.types import ClientFailure, ClientResult, Task, TaskSettings
from fedlens.federation.bookkeeping import Bookkeeping
from fedlens.federation.checkpoints import Checkpoint, Checkpoints
from fedlens.federation.coordinator import Coordinator, RunPlan
from fedlens.federation.sampling import ClientSampler
from fedlens.flower import runtime as module
from fedlens.schedules.fedbuff import FedBuff
from fedlens.strategies.fedavg import FedAvg
from fedlens.training.flat import FlatModel

pytestmark = pytest.mark.usefixtures("quick")


# -- coming and going --------------------------------------------------------------------------------------------------


def leaving(stage, index: int, then=lambda: None):
    """The site is killed over a message; `then` is what happens next."""

    def act(script, incoming, parts):
        stage.superlink.leave(stage.nodes[f"client{index}"])
        then()

    return act


def test_a_lost_site_that_comes_back_gets_its_task_again(tmp_path) -> None:
    stage = Stage(tmp_path, rejoin=30.0)
    stage.join(0, train=leaving(stage, 0, then=lambda: stage.join(0)))
    stage.join(1)
    stage.open(2)
    first = stage.nodes["client0"]
    outcomes = list(stage.train("client0", "client1"))
    assert of(outcomes, ClientResult) == ["client0", "client1"]
    assert stage.nodes["client0"] != first
    assert stage.heard(0) == ["describe", "prepare", "train"]
    assert any("client0 has gone" in note for note in stage.notes)
    assert any("client0 is back" in note for note in stage.notes)


def test_a_site_that_restarts_before_its_death_is_noticed(tmp_path) -> None:
    """Flower counts the old node as online for a while; the new one has the same identity."""
    stage = Stage(tmp_path, rejoin=30.0)

    def restarted(script, incoming, parts):
        if stage.nodes["client0"] == first:
            stage.join(0)

    stage.join(0, train=restarted)
    first = stage.nodes["client0"]
    stage.open(1)
    assert of(stage.train("client0"), ClientResult) == ["client0"]
    assert stage.ready() == ["client0"]
    assert not any("from another place, with" in note for note in stage.notes)


def test_a_site_that_stays_away_is_a_failure(stage) -> None:
    stage.join(0, train=leaving(stage, 0))
    stage.join(1)
    stage.open(2)
    outcomes = list(stage.train("client0", "client1"))
    assert of(outcomes, ClientResult) == ["client1"]
    failed = only_failure(outcomes)
    assert (failed.client, failed.reason, failed.answered) == ("client0", "the connection to it was lost", False)
    assert stage.ready() == ["client1"]
    assert [client.name for client in stage.runtime.known()] == ["client0", "client1"]


def test_a_lost_site_is_waited_for_once_all_others_have_answered(tmp_path, monkeypatch) -> None:
    """However long ago it was lost: the others may have been away themselves, as after a cut."""
    stage, now = Stage(tmp_path, rejoin=30.0, deadline=1000.0), 0.0

    def sleep(_seconds: float) -> None:
        nonlocal now
        now += 10
        if now == 120:
            stage.join(0)

    def later(script, incoming, parts):
        return script.honest(incoming, parts) if now >= 100 else None

    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "sleep", sleep)
    stage.join(0, train=leaving(stage, 0))
    stage.join(1, train=later)
    stage.open(2)
    assert of(stage.train("client0", "client1"), ClientResult) == ["client0", "client1"]


def test_a_task_for_a_site_that_has_just_gone(stage) -> None:
    stage.join(0)
    stage.open(1)
    stage.superlink.leave(stage.nodes["client0"])
    assert of(stage.train("client0"), ClientFailure) == ["client0"]


def test_the_deadline_ends_a_batch(tmp_path) -> None:
    stage = Stage(tmp_path, deadline=0.3)
    stage.join(0, train=silent)
    stage.join(1)
    stage.open(2)
    outcomes = list(stage.train("client0", "client1"))
    assert of(outcomes, ClientResult) == ["client1"]
    failed = only_failure(outcomes)
    assert (failed.reason, failed.answered) == ("no answer within 0.3 s", False)


def test_enough_answers_end_a_batch(stage) -> None:
    for index in range(4):
        stage.join(index, train=silent) if index == 1 else stage.join(index)
    stage.open(4)
    outcomes = list(stage.train("client0", "client1", "client2", "client3", enough=2))
    assert of(outcomes, ClientResult) == ["client0", "client2"]
    assert of(outcomes, ClientFailure) == []


def test_failures_are_not_among_enough(stage) -> None:
    stage.join(0, train=content(nan))
    stage.join(1)
    stage.join(2)
    stage.open(3)
    outcomes = list(stage.train("client0", "client1", "client2", enough=2))
    assert of(outcomes, ClientResult) == ["client1", "client2"]
    assert of(outcomes, ClientFailure) == ["client0"]


def test_late_answers_of_a_batch_before_are_dropped(stage) -> None:
    late = []

    def later(script, incoming, parts):
        """Answers the first task when the second one is there."""
        late.append(incoming.message_id)
        return script.honest(incoming, parts) if len(set(late)) > 1 else None

    stage.join(0, train=later)
    stage.join(1)
    stage.open(2)
    assert of(stage.train("client0", "client1", enough=1), ClientResult) == ["client1"]
    outcomes = list(stage.train("client0", "client1", round_number=2))
    assert {(outcome.client, outcome.round) for outcome in outcomes} == {("client0", 2), ("client1", 2)}
    stage.ready()
    assert stage.superlink.replies == {}
    assert stage.runtime._stale == set()


# -- tasks that come and go one by one ---------------------------------------------------------------------------------


def alone(name: str, round_number: int, payload=SHARED) -> Task:
    return Task(name, round_number, "train", payload, TaskSettings(lr=0.1), unaggregated=True)


def arrivals(stage, count: int) -> list[tuple[str, int, type]]:
    """Client, round and kind of the next outcomes, with each as its task's."""
    found = []
    while len(found) < count:
        task, outcome = stage.runtime.next_result(short=False)
        assert (outcome.client, outcome.round) == (task.client, task.round)
        found.append((task.client, task.round, type(outcome)))
    return found


def moved(by: float):
    return {name: value + by for name, value in SHARED.items()}


def test_tasks_with_models_of_their_own_come_back_one_by_one(stage, tmp_path) -> None:
    for index in range(3):
        stage.join(index)
    stage.open(3)
    tasks = [alone("client0", 1), alone("client1", 2, moved(0.01)), alone("client2", 2, moved(0.01))]
    stage.runtime.start(tasks[:2])
    stage.runtime.start(tasks[2:])
    assert [flight.task for flight in stage.runtime.pending_tasks()] == tasks
    outcomes = {}
    while stage.runtime.in_flight:
        task, outcome = stage.runtime.next_result(short=False)
        outcomes[task.client] = outcome
    assert stage.runtime.pending_tasks() == ()

    trainer = tiny_trainer(FedAvg(), DATA, tmp_path / "alone", SETTINGS)
    for task in tasks:
        expected = trainer.run(task)
        for name, value in expected.payload.items():
            assert torch.allclose(outcomes[task.client].payload[name], value, atol=1e-6), (task.client, name)


def test_a_site_is_busy_until_its_outcome_is_taken_in(stage) -> None:
    """Which of its private tensors the server counts on is not known before."""
    stage.join(0)
    stage.join(1)
    stage.open(2)
    stage.runtime.start([alone("client0", 1)])
    assert [client.name for client in stage.runtime.idle()] == ["client1"]
    while not stage.runtime.more_now:
        stage.ready()
    assert [client.name for client in stage.runtime.idle()] == ["client1"]
    assert stage.runtime.in_flight == len(stage.runtime.pending_tasks()) == 1
    assert arrivals(stage, 1) == [("client0", 1, ClientResult)]
    assert [client.name for client in stage.runtime.idle()] == ["client0", "client1"]


def test_evaluations_go_on_while_tasks_are_out(stage) -> None:
    """A site that is silent about its training answers them; and a large update may still come afterwards."""

    def later(script, incoming, parts):
        return script.honest(incoming, parts) if "evaluate_shared" in stage.heard(0) else None

    stage.join(0, train=later)
    stage.join(1)
    stage.open(2)
    stage.runtime.start([alone("client0", 1), alone("client1", 1)])
    stage.runtime.submit(
        [Task(f"client{i}", 1, "evaluate_shared", SHARED, TaskSettings(splits=("test",))) for i in range(2)]
    )
    assert of(stage.runtime.completed(), ClientResult) == ["client0", "client1"]
    assert sorted(arrivals(stage, 2)) == [("client0", 1, ClientResult), ("client1", 1, ClientResult)]
    assert stage.link.grid.limit > module.ENVELOPE_BYTES


def test_a_task_that_was_lost_with_its_site_is_given_out_again(tmp_path) -> None:
    stage = Stage(tmp_path, rejoin=30.0)
    stage.join(0, train=leaving(stage, 0, then=lambda: stage.join(0)))
    stage.open(1)
    stage.runtime.start([alone("client0", 4)])
    assert arrivals(stage, 1) == [("client0", 4, ClientResult)]
    assert stage.heard(0) == ["describe", "prepare", "train"]


def test_a_site_that_stays_away_gives_its_place_to_others(stage) -> None:
    stage.join(0, train=leaving(stage, 0))
    stage.join(1)
    stage.open(2)
    stage.runtime.start([alone("client0", 1)])
    task, failure = stage.runtime.next_result(short=False)
    assert (task.client, failure.reason, failure.answered) == ("client0", "the connection to it was lost", False)
    assert [client.name for client in stage.runtime.idle()] == ["client1"]


def test_a_task_has_its_own_deadline(tmp_path) -> None:
    stage = Stage(tmp_path, deadline=0.3)
    stage.join(0, train=silent)
    stage.open(1)
    stage.runtime.start([alone("client0", 1)])
    _, failure = stage.runtime.next_result(short=False)
    assert (failure.reason, failure.answered) == ("no answer within 0.3 s", False)
    assert stage.runtime.in_flight == 0


def test_a_newcomer_is_noticed_while_others_work(stage) -> None:
    def meanwhile(script, incoming, parts):
        if "client1" not in stage.nodes:
            stage.join(1)

    stage.join(0, train=meanwhile)
    stage.open(1)
    stage.runtime.start([alone("client0", 1)])
    assert stage.runtime.next_result(short=True) is None
    assert [client.name for client in stage.runtime.idle()] == ["client1"]


def test_tasks_one_by_one_survive_a_new_superlink(tmp_path) -> None:
    stage = Stage(tmp_path, rejoin=30.0, come_back=(0,))
    stage.join(0, train=silent)
    stage.open(1)
    stage.runtime.start([alone("client0", 2)])
    stage.superlink.down = True
    assert arrivals(stage, 1) == [("client0", 2, ClientResult)]


def test_fedbuff_over_sites(stage, tmp_path) -> None:
    """Whole rounds by the coordinator, with a checkpoint from which the pending tasks are given out again."""
    for index in range(4):
        stage.join(index, train=silent) if index == 3 else stage.join(index)
    stage.open(4)
    checkpoints = Checkpoints(tmp_path / "checkpoints")

    def run(rounds: int, start: Checkpoint) -> tuple[Checkpoint, list]:
        lines: list = []
        books = Bookkeeping([SimpleNamespace(round=lines.append)], checkpoints)
        plan = RunPlan(rounds, ClientSampler(1.0, 2, 0), lambda _: 0.1, protocol=FedBuff(buffer_size=2).protocol)
        trained = frozenset(FlatModel(tiny_model(), CPU).trainable)
        try:
            return Coordinator(plan, FedAvg(), stage.runtime, trained, books, plain_mean).run(start), lines
        finally:
            books.close()

    end, records = run(4, Checkpoint(0, FedAvg().init(SHARED)))
    assert [len(record.reports) for record in records] == [2, 2, 2, 2]
    assert all(record.virtual_seconds is None and len(record.staleness) == 2 for record in records)
    assert "client3" not in {report.client for record in records for report in record.reports}
    assert ("client3", 1) in [(flight.task.client, flight.task.round) for flight in end.pending_tasks]
    stage.runtime.close()
    stage.superlink.leave(stage.nodes["client3"])
    stage.join(3)
    start = checkpoints.latest(print)
    assert {(f.task.client, f.task.round) for f in start.pending_tasks} == {
        (f.task.client, f.task.round) for f in end.pending_tasks
    }
    end, records = run(7, start)
    late = [report for record in records for report in record.reports if report.client == "client3"]
    assert late[0].metrics["staleness"].value >= 4
    assert end.round == 7
