"""The server's side over a grid in memory: sites that come, go, answer late, answer rubbish or do not answer."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from flwr.app import Error, RecordDict
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import ObjectTree
from safetensors.torch import load_file
from tests.helpers import CPU, combined, tiny_model, tiny_trainer
from tests.runtimes.flower.fakes import Script, TinySite, altering, silent
from tests.runtimes.flower.stage import DATA, SETTINGS, SETUP, SHARED, Stage, content, put

from fedlens.aggregation.mean import WeightedMean
from fedlens.errors import ConnectionFailed
from fedlens.federation.bookkeeping import Bookkeeping
from fedlens.federation.checkpoints import Checkpoint, Checkpoints
from fedlens.federation.coordinator import Coordinator, Plan
from fedlens.federation.schedule import CohortRule
from fedlens.federation.types import Answer, ClientFailure, Task
from fedlens.personalization.base import personalizations
from fedlens.runtimes.flower import runtime as module
from fedlens.runtimes.flower.codec import arrays, tensors
from fedlens.runtimes.flower.messages import HEAD, Prepared, Refusal, Visit, reply
from fedlens.runtimes.in_process import InProcessRuntime
from fedlens.schedules.fedbuff import FedBuff
from fedlens.serve import HOME_METRICS, SHARED_METRICS, expectation
from fedlens.strategies.fedavg import FedAvg
from fedlens.training.algorithm import Algorithm
from fedlens.training.flat import FlatModel

pytestmark = pytest.mark.usefixtures("quick")


def of(outcomes, kind) -> list[str]:
    return sorted(outcome.client for outcome in outcomes if isinstance(outcome, kind))


# -- a round -----------------------------------------------------------------------------------------------------------


def test_two_sites_train_a_round(stage, tmp_path) -> None:
    stage.join(1)
    stage.join(0)
    assert stage.open(2) == ["client0", "client1"]
    outcomes = list(stage.train("client0", "client1"))
    assert of(outcomes, Answer) == ["client0", "client1"]

    alone = InProcessRuntime([], partial(tiny_trainer, FedAvg(), DATA, tmp_path / "alone", SETTINGS))
    alone.submit([Task(name, 1, "train", SHARED, {"lr": 0.1}) for name in ("client0", "client1")])
    expected = combined(alone.completed(), WeightedMean()).delta
    found = combined(iter(outcomes), WeightedMean()).delta
    for name, value in expected.items():
        assert (value.abs() > 0).any()
        assert torch.allclose(found[name], value, atol=1e-6), name


def test_who_is_there(stage) -> None:
    stage.join(0)
    stage.open(1)
    (info,) = stage.runtime.clients()
    assert (info.name, info.partition, info.examples, info.device) == ("client0", 0, 12, "cpu")
    assert info.counts["test"] == tuple(DATA.class_counts(DATA.clients[0].test).tolist())
    assert "client0 is here: 12 training images of 3 classes, cpu" in stage.notes
    assert stage.link.tended > 0


def test_it_waits_until_enough_are_there(stage) -> None:
    stage.join(0)

    def second(script, incoming, parts):
        stage.join(1)  # comes while the first gets ready
        return script.honest(incoming, parts)

    stage.superlink.nodes.clear()
    stage.join(0, prepare=second)
    assert stage.open(2) == ["client0", "client1"]
    assert "waiting for clients: 0 of 2 ready" in stage.notes
    assert "waiting for clients: 1 of 2 ready" in stage.notes


def test_descriptions_come_before_there_is_a_setup(stage) -> None:
    stage.join(1)
    stage.join(0)
    assert [site.name for site in stage.runtime.described(2)] == ["client0", "client1"]
    assert stage.heard(0) == ["describe"]
    assert stage.open(2) == ["client0", "client1"]
    assert stage.heard(0) == ["describe", "prepare"]


def test_evaluations_come_back(stage) -> None:
    stage.join(0)
    stage.open(1)
    payload = {"client": "client0", "round": 1, "payload": SHARED}
    stage.runtime.submit([Task(kind="evaluate", **payload)])
    (scored,) = stage.runtime.completed()
    assert scored.report.weight == 2, scored
    stage.runtime.submit([Task(kind="count", settings={"test": 1.0, "val": 1.0}, **payload)])
    (counted,) = stage.runtime.completed()
    assert {split: int(value.sum()) for split, value in counted.payload.items()} == {"test": 2, "val": 2}


def test_nothing_to_do_is_done_at_once(stage) -> None:
    stage.runtime.submit([])
    assert list(stage.runtime.completed()) == []


def test_answers_are_handed_on_one_by_one(stage) -> None:
    """So that one update at most is in memory beside the sum."""
    for index in range(3):
        stage.join(index)
    stage.open(3)
    outcomes = stage.train("client0", "client1", "client2")
    assert isinstance(next(outcomes), Answer)
    assert len(stage.superlink.replies) == 2
    assert len(list(outcomes)) == 2


# -- rubbish -----------------------------------------------------------------------------------------------------------


def without_content(script, incoming, parts):
    """A message to which no content belongs."""
    honest = script.honest(incoming, parts)
    *_, root = honest.parts
    head, _, body = honest.parts[root].partition(b"\x00")
    kind, _, size = head.split(b" ")
    return replace(
        honest, parts={root: kind + b"  " + size + b"\x00" + body}, tree=ObjectTree(object_id=root).SerializeToString()
    )


def raised(code: int):
    return altering(lambda message: make_message(message.metadata, error=Error(code, "it broke")))


def broken_parts(script, incoming, parts):
    """The last of the parts, which is the message itself, is not what Flower writes."""
    honest = script.honest(incoming, parts)
    *_, root = honest.parts
    return replace(honest, parts={**honest.parts, root: b"Message  5\x00rubbish"})


def another_thing(script, incoming, parts):
    """Not a message at all, but a record."""
    honest = script.honest(incoming, parts)
    *_, root = honest.parts
    record = next(part for part in honest.parts.values() if part.startswith(b"MetricRecord"))
    return replace(honest, parts={**honest.parts, root: record})


def missing_part(script, incoming, parts):
    honest = script.honest(incoming, parts)
    first, *_ = honest.parts
    return replace(honest, parts={name: part for name, part in honest.parts.items() if name != first})


def nan(records: RecordDict) -> None:
    update = tensors(records["payload"])
    records["payload"] = arrays({**update, "head.bias": torch.full((3,), torch.nan)})


def hundredfold(records: RecordDict) -> None:
    records["payload"] = arrays({"head.bias": torch.rand(1_100_000)})


RUBBISH = {
    "not a number": (content(nan), r"its answer was not used: numbers in head\.bias that are not finite"),
    "too large": (content(hundredfold), "its answer was not used: .*larger than any answer to this task can be"),
    "weight": (put(HEAD, weight=1e9), r"a weight of 1e\+09, but the site has reported 12 images"),
    "other round": (put(HEAD, round=5), "a reply that does not answer the task"),
    "other client": (put(HEAD, client="client1"), "a reply that does not answer the task"),
    "other version": (put(HEAD, protocol=99), "speaks version 99"),
    "nothing": (content(lambda records: records.clear()), "a message that is not FedLens'"),
    "no content": (without_content, "its answer was not used: a broken message"),
    "an introduction": (content(lambda r: r.update(reply(Prepared((1,), (1,), (1,))))), "does not answer the task"),
    "broken bytes": (broken_parts, "its answer was not used: a broken message"),
    "no message": (another_thing, "its answer was not used: a broken message"),
    "an app that raised": (raised(ErrorCode.CLIENT_APP_RAISED_EXCEPTION), "its answer was not used: it broke"),
    "a refusal": (content(lambda r: r.update(reply(Refusal("no time")))), "^no time$"),
}


@pytest.mark.parametrize(("act", "line"), RUBBISH.values(), ids=list(RUBBISH))
def test_rubbish_is_that_sites_failure(stage, act, line: str) -> None:
    stage.join(0, train=act)
    stage.join(1)
    stage.open(2)
    outcomes = list(stage.train("client0", "client1"))
    assert of(outcomes, Answer) == ["client1"]
    (failure,) = [outcome for outcome in outcomes if isinstance(outcome, ClientFailure)]
    assert (failure.client, failure.round, failure.answered) == ("client0", 1, True)
    assert re.search(line, failure.reason), failure.reason
    assert of(stage.train("client1", round_number=2), Answer) == ["client1"]


def test_a_site_that_was_cut_off_while_it_answered_is_asked_again(stage) -> None:
    def cut_off_once(script, incoming, parts):
        return (
            script.honest(incoming, parts) if "train" in stage.heard(0)[:-1] else missing_part(script, incoming, parts)
        )

    stage.join(0, train=cut_off_once)
    stage.join(1)
    stage.open(2)
    assert of(stage.train("client0", "client1"), Answer) == ["client0", "client1"]
    assert stage.heard(0).count("train") == 2


def test_a_site_that_diverged_is_a_failure(stage) -> None:
    class Diverges(TinySite):
        def run(self, task, _setup):
            return ClientFailure(task.client, task.round, "training diverged")

    honest = stage.site(0)
    stage.join(0, site=Diverges(**{name: getattr(honest, name) for name in honest.__dataclass_fields__}))
    stage.open(1)
    (failure,) = stage.train("client0")
    assert (failure.reason, failure.answered) == ("training diverged", True)


# -- who may take part -------------------------------------------------------------------------------------------------


def test_a_second_site_of_a_partition_stays_out_by_name(stage) -> None:
    stage.join(0)
    stage.open(1)
    second = stage.join(0, site=stage.site(0, identity="another machine"))
    assert stage.ready() == ["client0"]
    line = "partition 0 (client0) is already here from another place, with 16 images: give each client a --partition_id"
    assert any(line in note for note in stage.notes), stage.notes
    assert second.farewell.kind == "refuse"
    assert "give each client a --partition_id of its own" in second.farewell.text


def test_a_name_is_taken_once(stage) -> None:
    stage.join(0)
    stage.open(1)
    stage.join(1, site=stage.site(0, identity="another machine", partition=1))
    stage.ready()
    assert any("client0) is already here from another place" in note for note in stage.notes)


def test_the_second_one_going_away_leaves_the_firsts_task_alone(stage) -> None:
    stage.join(0)
    stage.open(1)
    first = stage.nodes["client0"]
    stage.join(0, site=stage.site(0, identity="another machine"))
    stage.ready()
    outcomes = stage.train("client0")
    stage.superlink.leave(stage.nodes["client0"])
    assert of(outcomes, Answer) == ["client0"]
    assert [kind for node, kind in stage.superlink.heard if node == first].count("train") == 1


@pytest.mark.parametrize(("key", "ready"), [("", 1), ("client0", 1), ("client1", 0)])
def test_a_key_is_one_sites(stage, key: str, ready: int) -> None:
    site = stage.join(0, key=key)
    assert len(stage.open()) == ready
    if not ready:
        assert "its key is client1's: start it with that name or partition_id" in site.farewell.text


@pytest.mark.parametrize("kind", ["describe", "prepare"])
@pytest.mark.parametrize(
    ("act", "line"),
    [
        (content(lambda records: records.clear()), "a message that is not FedLens'"),
        (put(HEAD, protocol=0), "speaks version 0 of FedLens' protocol"),
        (put(HEAD, more=1), "more: Unexpected keyword argument"),
        (content(lambda records: records[HEAD].update({"is": "Answer"})), "its reply does not fit the question"),
        (broken_parts, "a broken message"),
        (without_content, "a broken message"),
        (content(lambda records: records.update(reply(Refusal("not with us")))), "stays out: not with us"),
    ],
)
def test_a_site_that_cannot_be_understood_stays_out(stage, kind: str, act, line: str) -> None:
    stage.join(0, **{kind: act})
    stage.join(1)
    assert stage.open(1) == ["client1"]
    stage.ready()
    assert any(line in note for note in stage.notes), stage.notes
    assert of(stage.train("client1"), Answer) == ["client1"]


@pytest.mark.parametrize("counts", [(1, 2), (1, 2, 3, 4), (0, 0, 0)])
def test_counts_must_fit_the_classes(stage, counts) -> None:
    stage.join(0, prepare=put(HEAD, train=list(counts)))
    stage.open()
    assert stage.ready() == []
    assert any("stays out: it has no training images of the run's 3 classes" in note for note in stage.notes)


def test_a_clock_that_is_wrong_is_said(stage) -> None:
    stage.join(0, site=stage.site(0, clock=time.time() - 3600))
    stage.open(1)
    assert any(re.search(r"client0's clock is 3\d\d\d s behind", note) for note in stage.notes)


def test_one_that_was_refused_is_not_asked_again(stage) -> None:
    stage.join(0, prepare=content(lambda records: records.update(reply(Refusal("not with us")))))
    stage.open()
    stage.ready()
    assert stage.heard(0) == ["describe", "prepare"]


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(lambda message: make_message(message.metadata, reply(Visit())), id="the doctor"),
        pytest.param(
            lambda message: make_message(message.metadata, error=Error(ErrorCode.NODE_UNAVAILABLE, "gone")),
            id="one that left",
        ),
    ],
)
def test_who_is_there_with_a_key_after_somebody_else_is_asked(stage, before) -> None:
    """With its key a site is the same node to the server, which may have been busy when somebody left and it came."""
    acts = iter([altering(before)])

    def describe(script, incoming, parts):
        return next(acts, Script.honest)(script, incoming, parts)

    stage.join(0, describe=describe)
    assert stage.open(1) == ["client0"]
    assert stage.heard(0) == ["describe", "describe", "prepare"]
    assert not any("stays out" in note for note in stage.notes)


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
    assert of(outcomes, Answer) == ["client0", "client1"]
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
    assert of(stage.train("client0"), Answer) == ["client0"]
    assert stage.ready() == ["client0"]
    assert not any("from another place, with" in note for note in stage.notes)


def test_a_site_that_stays_away_is_a_failure(stage) -> None:
    stage.join(0, train=leaving(stage, 0))
    stage.join(1)
    stage.open(2)
    outcomes = list(stage.train("client0", "client1"))
    assert of(outcomes, Answer) == ["client1"]
    (failure,) = [outcome for outcome in outcomes if isinstance(outcome, ClientFailure)]
    assert (failure.client, failure.reason, failure.answered) == ("client0", "the connection to it was lost", False)
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
    assert of(stage.train("client0", "client1"), Answer) == ["client0", "client1"]


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
    assert of(outcomes, Answer) == ["client1"]
    (failure,) = [outcome for outcome in outcomes if isinstance(outcome, ClientFailure)]
    assert (failure.reason, failure.answered) == ("no answer within 0.3 s", False)


def test_enough_answers_end_a_batch(stage) -> None:
    for index in range(4):
        stage.join(index, train=silent) if index == 1 else stage.join(index)
    stage.open(4)
    outcomes = list(stage.train("client0", "client1", "client2", "client3", enough=2))
    assert of(outcomes, Answer) == ["client0", "client2"]
    assert of(outcomes, ClientFailure) == []


def test_failures_are_not_among_enough(stage) -> None:
    stage.join(0, train=content(nan))
    stage.join(1)
    stage.join(2)
    stage.open(3)
    outcomes = list(stage.train("client0", "client1", "client2", enough=2))
    assert of(outcomes, Answer) == ["client1", "client2"]
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
    assert of(stage.train("client0", "client1", enough=1), Answer) == ["client1"]
    outcomes = list(stage.train("client0", "client1", round_number=2))
    assert {(outcome.client, outcome.round) for outcome in outcomes} == {("client0", 2), ("client1", 2)}
    stage.ready()
    assert stage.superlink.replies == {}
    assert stage.runtime._stale == set()


# -- tasks that come and go one by one ---------------------------------------------------------------------------------


def alone(name: str, round_number: int, payload=SHARED) -> Task:
    return Task(name, round_number, "train", payload, {"lr": 0.1}, apart=True)


def arrivals(stage, count: int) -> list[tuple[str, int, type]]:
    """Client, round and kind of the next outcomes, with each as its task's."""
    found = []
    while len(found) < count:
        task, outcome = stage.runtime.arrival(short=False)
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
    assert [flight.task for flight in stage.runtime.flights()] == tasks
    outcomes = {}
    while stage.runtime.in_flight:
        task, outcome = stage.runtime.arrival(short=False)
        outcomes[task.client] = outcome
    assert stage.runtime.flights() == ()

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
    assert stage.runtime.in_flight == len(stage.runtime.flights()) == 1
    assert arrivals(stage, 1) == [("client0", 1, Answer)]
    assert [client.name for client in stage.runtime.idle()] == ["client0", "client1"]


def test_evaluations_go_on_while_tasks_are_out(stage) -> None:
    """A site that is silent about its training answers them; and a large update may still come afterwards."""

    def later(script, incoming, parts):
        return script.honest(incoming, parts) if "count" in stage.heard(0) else None

    stage.join(0, train=later)
    stage.join(1)
    stage.open(2)
    stage.runtime.start([alone("client0", 1), alone("client1", 1)])
    stage.runtime.submit([Task(f"client{i}", 1, "count", SHARED, {"test": 1.0}) for i in range(2)])
    assert of(stage.runtime.completed(), Answer) == ["client0", "client1"]
    assert sorted(arrivals(stage, 2)) == [("client0", 1, Answer), ("client1", 1, Answer)]
    assert stage.link.grid.limit > module.ENVELOPE_BYTES


def test_a_task_that_was_lost_with_its_site_is_given_out_again(tmp_path) -> None:
    stage = Stage(tmp_path, rejoin=30.0)
    stage.join(0, train=leaving(stage, 0, then=lambda: stage.join(0)))
    stage.open(1)
    stage.runtime.start([alone("client0", 4)])
    assert arrivals(stage, 1) == [("client0", 4, Answer)]
    assert stage.heard(0) == ["describe", "prepare", "train"]


def test_a_site_that_stays_away_gives_its_place_to_others(stage) -> None:
    stage.join(0, train=leaving(stage, 0))
    stage.join(1)
    stage.open(2)
    stage.runtime.start([alone("client0", 1)])
    task, failure = stage.runtime.arrival(short=False)
    assert (task.client, failure.reason, failure.answered) == ("client0", "the connection to it was lost", False)
    assert [client.name for client in stage.runtime.idle()] == ["client1"]


def test_a_task_has_its_own_deadline(tmp_path) -> None:
    stage = Stage(tmp_path, deadline=0.3)
    stage.join(0, train=silent)
    stage.open(1)
    stage.runtime.start([alone("client0", 1)])
    _, failure = stage.runtime.arrival(short=False)
    assert (failure.reason, failure.answered) == ("no answer within 0.3 s", False)
    assert stage.runtime.in_flight == 0


def test_a_newcomer_is_noticed_while_others_work(stage) -> None:
    def meanwhile(script, incoming, parts):
        if "client1" not in stage.nodes:
            stage.join(1)

    stage.join(0, train=meanwhile)
    stage.open(1)
    stage.runtime.start([alone("client0", 1)])
    assert stage.runtime.arrival(short=True) is None
    assert [client.name for client in stage.runtime.idle()] == ["client1"]


def test_tasks_one_by_one_survive_a_new_superlink(tmp_path) -> None:
    def again(superlink) -> None:
        stage.superlink = superlink
        stage.join(0)

    stage = Stage(tmp_path, rejoin=30.0, renewed=again)
    stage.join(0, train=silent)
    stage.open(1)
    stage.runtime.start([alone("client0", 2)])
    stage.superlink.down = True
    assert arrivals(stage, 1) == [("client0", 2, Answer)]


def test_fedbuff_over_sites(stage, tmp_path) -> None:
    """Whole rounds by the coordinator, with a checkpoint from which the tasks in flight are given out again."""
    for index in range(4):
        stage.join(index, train=silent) if index == 3 else stage.join(index)
    stage.open(4)
    checkpoints = Checkpoints(tmp_path / "checkpoints")

    def run(rounds: int, start: Checkpoint) -> tuple[Checkpoint, list]:
        lines: list = []
        books = Bookkeeping([SimpleNamespace(round=lines.append)], checkpoints)
        plan = Plan(rounds, CohortRule(1.0, 2, 0), lambda _: 0.1, schedule=FedBuff(buffer_size=2))
        trained = frozenset(FlatModel(tiny_model(), CPU).trainable)
        try:
            return Coordinator(plan, FedAvg(), stage.runtime, trained, books, WeightedMean).run(start), lines
        finally:
            books.close()

    end, records = run(4, Checkpoint(0, FedAvg().init(SHARED)))
    assert [len(record.reports) for record in records] == [2, 2, 2, 2]
    assert all(record.virtual_seconds is None and len(record.staleness) == 2 for record in records)
    assert "client3" not in {report.client for record in records for report in record.reports}
    assert ("client3", 1) in [(flight.task.client, flight.task.round) for flight in end.flights]
    stage.runtime.close()
    stage.superlink.leave(stage.nodes["client3"])
    stage.join(3)
    start = checkpoints.latest(print)
    assert {(f.task.client, f.task.round) for f in start.flights} == {
        (f.task.client, f.task.round) for f in end.flights
    }
    end, records = run(7, start)
    late = [report for record in records for report in record.reports if report.client == "client3"]
    assert late[0].metrics["staleness"].value >= 4
    assert end.round == 7


# -- losing the SuperLink ----------------------------------------------------------------------------------------------


def test_tasks_are_sent_again_over_a_new_superlink(tmp_path) -> None:
    def again(superlink) -> None:
        stage.superlink = superlink
        for index in (0, 1):
            stage.join(index)

    stage = Stage(tmp_path, rejoin=30.0, renewed=again)

    def ends(script, incoming, parts):
        stage.link.ended = True

    stage.join(0, train=ends)
    stage.join(1, train=silent)
    stage.open(2)
    outcomes = list(stage.train("client0", "client1"))
    assert of(outcomes, Answer) == ["client0", "client1"]
    assert stage.heard(0) == ["describe", "prepare", "train"]
    assert any("lost Flower's SuperLink (it has ended): starting it again" in note for note in stage.notes)
    assert of(stage.train("client0", round_number=2), Answer) == ["client0"]


@pytest.mark.parametrize("when", ["before the tasks", "after the tasks"])
def test_a_superlink_that_cannot_be_reached_is_replaced(tmp_path, when: str) -> None:
    def again(superlink) -> None:
        stage.superlink = superlink
        stage.join(0)

    stage = Stage(tmp_path, rejoin=30.0, renewed=again)
    stage.join(0, train=silent)
    stage.open(1)
    stage.superlink.down = when == "before the tasks"
    outcomes = stage.train("client0")
    stage.superlink.down = True
    assert of(outcomes, Answer) == ["client0"]
    assert any("lost Flower's SuperLink (Connection refused)" in note for note in stage.notes)


def test_without_another_superlink_the_run_stops(stage) -> None:
    stage.join(0, train=silent)
    stage.open(1)
    outcomes = stage.train("client0")
    stage.superlink.down = True
    with pytest.raises(ConnectionFailed, match="there is no other"):
        next(outcomes)


# -- the end -----------------------------------------------------------------------------------------------------------


def test_everybody_is_told_of_the_end(stage) -> None:
    sites = [stage.join(index) for index in range(2)]
    stage.open(2)
    stage.runtime.finish("all 3 rounds are done")
    assert [(site.farewell.kind, site.farewell.text) for site in sites] == [("finish", "all 3 rounds are done")] * 2


def test_the_end_is_no_error_when_nobody_hears_it(stage) -> None:
    stage.join(0)
    stage.open(1)
    stage.superlink.down = True
    stage.runtime.finish("done")
    stage.runtime.close()
    stage.runtime.close()


# -- what stays with a site --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fedper", "fedbn", "ditto", "local"])
def test_private_parts_are_in_no_message(stage, name: str) -> None:
    """Neither as a name in a record, nor as bytes in any part of any message, over training and evaluation."""
    algorithm = Algorithm(FedAvg(), personalizations.get(name).build({}))
    folders = {f"client{index}": stage.folder / str(index) for index in (0, 1)}
    trainers = {client: tiny_trainer(algorithm, DATA, folder, SETTINGS) for client, folder in folders.items()}
    for index, trainer in enumerate(trainers.values()):
        stage.join(index, site=stage.site(index, trainer=trainer))
    trainer = trainers["client0"]
    private = trainer._model.names - trainer.shared
    shared = {key: value for key, value in SHARED.items() if key in trainer.shared}
    at_home = HOME_METRICS + (SHARED_METRICS if trainer.shows_shared else ())
    stage.runtime.open(SETUP, expectation(trainer._model, shared, FedAvg(), 3, at_home))
    stage.runtime.clients(2)
    for kind, expects in (("train", None), ("evaluate", 1), ("count", 1)):
        settings = {"lr": 0.1, "val": 1.0}
        stage.runtime.submit([Task(client, 1, kind, shared, settings, expects) for client in trainers])
        outcomes = list(stage.runtime.completed())
        assert of(outcomes, Answer) == ["client0", "client1"], outcomes
        for answer in outcomes:
            assert not private & (answer.payload.keys() | answer.extra.keys())
    everything = b"".join(stage.superlink.parts.values())
    assert all(key.encode() in everything for key in shared)
    assert not any(key.encode() in everything for key in private)
    for folder in folders.values():
        (file,) = folder.rglob("*.safetensors")
        for key, value in load_file(file).items():
            assert value.numpy().tobytes() not in everything, key


def test_both_accuracies_come_from_the_sites(stage) -> None:
    """A personalisation measures the shared model beside the client's own; an answer without it is not used."""
    algorithm = Algorithm(FedAvg(), personalizations.get("ditto").build({}))
    stage.join(0, site=stage.site(0, trainer=tiny_trainer(algorithm, DATA, stage.folder / "0", SETTINGS)))
    stage.join(1)
    resident = FlatModel(tiny_model(), CPU)
    stage.runtime.open(SETUP, expectation(resident, SHARED, FedAvg(), 3, HOME_METRICS + SHARED_METRICS))
    stage.runtime.clients(2)
    stage.runtime.submit([Task(name, 1, "evaluate", SHARED, {"lr": 0.1}) for name in ("client0", "client1")])
    outcomes = {outcome.client: outcome for outcome in stage.runtime.completed()}
    metrics = outcomes["client0"].report.metrics
    assert metrics["shared.accuracy"] == metrics["accuracy"], "it has never trained"
    assert "lacks the metric shared.loss, shared.accuracy" in outcomes["client1"].reason
