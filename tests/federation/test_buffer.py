"""Asynchronous rounds on a virtual clock: order, staleness, equality with synchronous rounds, going on after a stop."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.federation.timed import SETTINGS, Listed, plan, timed
from tests.helpers import infos, tiny_data

from fedlens.clocks.half_normal import HalfNormal
from fedlens.clocks.none import NoClock
from fedlens.core.types import VirtualTime
from fedlens.errors import NotEnoughClients, TrainingDiverged
from fedlens.federation.sampling import ClientSampler
from fedlens.runtimes.in_process import InProcessRuntime
from fedlens.runtimes.virtual import AHEAD, VirtualRuntime
from fedlens.schedules.fedasync import FedAsync
from fedlens.schedules.fedbuff import FedBuff
from fedlens.schedules.sync import Sync
from fedlens.strategies.fedavg import FedAvg
from fedlens.strategies.fedavgm import FedAvgM
from fedlens.training.sections import OptimizerSection


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def close(one, other, tolerance: float = 1e-5) -> bool:
    return all(torch.allclose(value, other[name], atol=tolerance) for name, value in one.items())


def counted(records) -> list[list[tuple[str, float]]]:
    """By step, in order of arrival: client and staleness."""
    return [[(report.client, report.metrics["staleness"].value) for report in record.reports] for record in records]


def test_equal_speeds_and_a_full_buffer_are_synchronous_rounds(tmp_path) -> None:
    buffered, records, _ = timed(tmp_path / "a", plan(FedBuff(buffer_size=4, concurrency=4)), NoClock())
    rounds, plain, _ = timed(tmp_path / "b", plan(Sync()), NoClock())
    assert same(buffered.state.shared, rounds.state.shared)
    assert [record.virtual_seconds for record in records] == [1.0, 2.0, 3.0, 4.0]
    assert [record.virtual_seconds for record in plain] == [1.0, 2.0, 3.0, 4.0]
    assert {staleness for step in counted(records) for _, staleness in step} == {0.0}
    assert plain[0].staleness == []


def test_who_arrives_when(tmp_path) -> None:
    """Three clients of 1, 2 and 5 seconds, all at work; a step every two arrivals.

    Arrivals: a 1; at 2 a (again) and b: of one moment, the one that was started first, so b, then a.
    """
    clock = Listed(times={"client0": 1.0, "client1": 2.0, "client2": 5.0})
    data = tiny_data(clients=3)
    _, records, _ = timed(tmp_path, plan(FedBuff(buffer_size=2, concurrency=3), 6), clock, data=data)
    # t=1: a. t=2: b makes step 1; a (its second from the first model, started at 1) goes into the next buffer, 1 old.
    # t=3: a (from step 1) makes step 2. t=4: b (from step 1, now 1 old) and a (from step 2): step 3.
    # t=5: c (from the first model, 3 old), a (from step 3): step 4.
    assert counted(records)[:4] == [
        [("client0", 0), ("client1", 0)],
        [("client0", 1), ("client0", 0)],
        [("client1", 1), ("client0", 0)],
        [("client2", 3), ("client0", 0)],
    ]
    assert [record.virtual_seconds for record in records][:4] == [2.0, 3.0, 4.0, 5.0]


def test_fedasync_by_hand(tmp_path) -> None:
    """Two clients of 2 and 3 seconds: the first arrives fresh, the second one step old; x ← (1 − α_t) x + α_t x_new.

    The clients' own models are those of rounds that a synchronous server makes with each of them alone.
    """
    data = tiny_data(clients=2)
    clock = Listed(times={"client0": 2.0, "client1": 3.0})
    schedule = FedAsync(mixing=0.5, staleness="polynomial", a=1.0)
    end, records, _ = timed(tmp_path / "async", plan(schedule, 2), clock, data=data)
    assert counted(records) == [[("client0", 0)], [("client1", 1)]]

    def alone(index: int):
        only = replace(data, clients=(data.clients[index],))
        return timed(tmp_path / f"alone{index}", plan(Sync(), 1), NoClock(), data=only)[0].state.shared

    first = timed(tmp_path / "first", plan(Sync(), 0), NoClock(), data=data)[0].state.shared
    for name, start in first.items():
        then = 0.5 * start + 0.5 * alone(0)[name]
        expected = 0.75 * then + 0.25 * alone(1)[name]  # α_t = 0.5 · (1 + 1)^−1
        assert torch.allclose(end.state.shared[name], expected, atol=1e-6), name
        assert not torch.allclose(start, expected, atol=1e-3), name


def test_the_strategy_steps_with_what_the_buffer_gives(tmp_path) -> None:
    """Server momentum on equal speeds is that of synchronous rounds; nothing of it is the schedule's."""
    buffered, _, _ = timed(tmp_path / "a", plan(FedBuff(buffer_size=4, concurrency=4)), NoClock(), strategy=FedAvgM())
    rounds, _, _ = timed(tmp_path / "b", plan(Sync()), NoClock(), strategy=FedAvgM())
    assert same(buffered.state.shared, rounds.state.shared)
    assert same(buffered.state.extra, rounds.state.extra)


def test_a_slow_client_stays_out_beyond_the_bound(tmp_path) -> None:
    clock = Listed(times={"client0": 1.0, "client1": 3.5})
    data = tiny_data(clients=2)
    _, records, _ = timed(tmp_path, plan(FedBuff(buffer_size=1, max_staleness=2), 6), clock, data=data)
    assert {client for step in counted(records) for client, _ in step} == {"client0"}
    (failure,) = records[3].failures
    assert failure.client == "client1"
    assert failure.reason == "its update is 3 steps old, and schedule.max_staleness is 2"


def test_one_that_drops_out_is_noticed_when_it_was_due_and_another_is_asked(tmp_path) -> None:
    clock = Listed(times={"client0": 1.0, "client1": 2.0}, losing=frozenset({0}))
    _, records, _ = timed(tmp_path, plan(FedBuff(buffer_size=2), 1), clock, data=tiny_data(clients=2))
    assert [(failure.client, failure.reason, failure.answered) for failure in records[0].failures] == [
        ("client0", "dropped out", False)
    ]
    # client0 starts again at 1 and comes back at 2, started after client1
    assert counted(records) == [[("client1", 0), ("client0", 0)]]
    assert records[0].virtual_seconds == 2.0


def test_clients_that_all_diverge_stop_the_run(tmp_path) -> None:
    data = tiny_data()
    broken = replace(data, images=torch.full((len(data.images), 1, 8, 8), torch.nan))
    with pytest.raises(TrainingDiverged, match=r"round 1: none of the 2 clients.*optimizer\.lr"):
        timed(tmp_path, plan(FedBuff(buffer_size=2)), HalfNormal(), data=broken)


SCHEDULES = {
    "fedbuff": FedBuff(buffer_size=2, concurrency=4),
    "fedasync": FedAsync(concurrency=3, max_staleness=3),
}
CLOCK = HalfNormal(dropout=0.2, available=0.7, cycle=5.0)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("keep", [False, True], ids=["fresh", "kept optimizer"])
@pytest.mark.parametrize("workers", [0, 2], ids=["in process", "two workers"])
def test_going_on_from_a_checkpoint_is_the_uninterrupted_run(tmp_path, name: str, keep: bool, workers: int) -> None:
    """Every checkpoint of a run is gone on from, the one before it last: clients are then ahead of the server."""
    how = {
        "settings": replace(SETTINGS, training=OptimizerSection(keep=keep)),
        "data": tiny_data(clients=5),
        "workers": workers,
    }
    whole, records, _ = timed(tmp_path / "whole", plan(SCHEDULES[name], 9), CLOCK, **how)
    _, _, checkpoints = timed(tmp_path / "cut", plan(SCHEDULES[name], 5), CLOCK, **how)
    for stop in (5, 4):
        start = checkpoints._load(stop)
        assert len(start.pending_tasks) > 1
        end, rest, _ = timed(tmp_path / "cut", plan(SCHEDULES[name], 9), CLOCK, start=start, keep=9, **how)
        assert same(end.state.shared, whole.state.shared)
        assert end.virtual_time == whole.virtual_time
        assert [record.virtual_seconds for record in rest] == [record.virtual_seconds for record in records][stop:]
        assert counted(rest) == counted(records)[stop:]


def test_other_numbers_of_workers_give_the_same(tmp_path) -> None:
    data = tiny_data(clients=5)
    runs = [
        timed(tmp_path / str(workers), plan(SCHEDULES["fedbuff"], 6), CLOCK, data=data, workers=workers)[0]
        for workers in (0, 0, 1, 3)
    ]
    assert same(runs[0].state.shared, runs[1].state.shared)
    assert all(close(run.state.shared, runs[0].state.shared) for run in runs)
    assert {run.virtual_time for run in runs} == {runs[0].virtual_time}


def test_one_model_is_held_for_each_version_in_flight(tmp_path) -> None:
    """Seven pending tasks, some of which started from the same model."""
    schedule = FedBuff(buffer_size=3, concurrency=7)
    end, _, checkpoints = timed(tmp_path, plan(schedule, 6), HalfNormal(minimum=1.0), data=tiny_data(clients=8))
    payloads = {id(flight.task.payload) for flight in end.pending_tasks}
    rounds = {flight.task.round for flight in end.pending_tasks}
    assert len(payloads) == len(rounds) < len(end.pending_tasks)
    again = checkpoints.latest(print)
    assert [(flight.number, flight.due, flight.task.client) for flight in again.pending_tasks] == [
        (flight.number, flight.due, flight.task.client) for flight in end.pending_tasks
    ]
    files = {path.name for path in (tmp_path / "checkpoints").glob("model-*")}
    kept = [checkpoints._load(number) for number in checkpoints.rounds()]
    assert files == {f"model-{flight.task.round:08d}.safetensors" for one in kept for flight in one.pending_tasks}


def test_a_damaged_model_of_a_task_in_flight_costs_its_checkpoints(tmp_path) -> None:
    clock = Listed(times={"client0": 2.0, "client1": 2.5, "client2": 3.0})
    _, _, checkpoints = timed(tmp_path, plan(FedAsync(), 6), clock, data=tiny_data(clients=3))
    before, after = (set(checkpoints._needs(number)) for number in (5, 6))
    damaged = checkpoints._model(max(after - before))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    notes: list[str] = []
    found = checkpoints.latest(notes.append)
    assert found.round == 5
    assert "round 6 is damaged" in notes[0]
    assert "does not match its SHA-256" in notes[0]


def test_a_thousand_clients(tmp_path) -> None:
    """100 of 1,000 clients at work, half of them on at a time, a step every 10 arrivals."""
    data = tiny_data(clients=1000, per_client=4)
    _, records, _ = timed(
        tmp_path, plan(FedBuff(buffer_size=10, concurrency=100), 20), HalfNormal(available=0.5), data=data
    )
    assert sum(len(record.reports) for record in records) == 200
    # 100 at work for √(2/π) seconds each: about 125 arrivals a second, after a start at which all are fresh
    assert records[-1].virtual_seconds == pytest.approx(200 / 125, rel=0.3)
    assert max(max(record.staleness) for record in records) > 2


def test_synchronous_rounds_last_as_long_as_the_slowest(tmp_path) -> None:
    clock = Listed(times={"client0": 1.0, "client1": 2.0, "client2": 7.0, "client3": 3.0})
    _, records, _ = timed(tmp_path, plan(Sync(), 2), clock)
    assert [record.virtual_seconds for record in records] == [7.0, 14.0]


def test_over_selection_ends_a_round_with_the_last_that_is_needed(tmp_path) -> None:
    clock = Listed(times={"client0": 1.0, "client1": 2.0, "client2": 7.0, "client3": 3.0})
    rule = ClientSampler(0.75, 1, seed=3, over_selection=0.3)
    _, records, _ = timed(tmp_path / "a", plan(Sync(), 2, rule), clock)
    assert [sorted(report.client for report in record.reports) for record in records] == [
        ["client0", "client1", "client3"]
    ] * 2
    assert [record.virtual_seconds for record in records] == [3.0, 6.0]
    # the first of them is lost: the slowest is needed after all
    lost = replace(clock, losing=frozenset({0}))
    _, records, _ = timed(tmp_path / "b", plan(Sync(), 1, rule), lost)
    assert sorted(report.client for report in records[0].reports) == ["client1", "client2", "client3"]
    assert [failure.client for failure in records[0].failures] == ["client0"]
    assert records[0].virtual_seconds == 7.0


def test_a_late_client_takes_the_place_of_one_that_diverged(tmp_path) -> None:
    data = tiny_data()
    images = data.images.permute(0, 3, 1, 2).float() / 255
    images[torch.from_numpy(data.clients[0].train)] = torch.nan
    clock = Listed(times={"client0": 1.0, "client1": 2.0, "client2": 7.0, "client3": 3.0})
    rule = ClientSampler(0.75, 1, seed=3, over_selection=0.3)
    _, records, _ = timed(tmp_path, plan(Sync(), 1, rule), clock, data=replace(data, images=images))
    assert sorted(report.client for report in records[0].reports) == ["client1", "client2", "client3"]
    assert records[0].virtual_seconds == 7.0


def test_a_clock_alone_changes_nothing_that_is_trained(tmp_path) -> None:
    timed_end, _, _ = timed(tmp_path / "a", plan(Sync()), HalfNormal())
    plain_end, _, _ = timed(tmp_path / "b", plan(Sync()), NoClock())
    assert same(timed_end.state.shared, plain_end.state.shared)


def test_a_round_waits_until_enough_clients_are_on(tmp_path) -> None:
    """A client that is on for a twentieth of the time: four at once never are by chance."""
    clock = HalfNormal(available=0.05, cycle=1000.0, scale=0.001)
    rule = ClientSampler(1.0, 1, seed=3)
    _, records, _ = timed(tmp_path / "one", plan(Sync(), 3, rule), clock)
    assert records[0].virtual_seconds > 0.1, "nobody is on at the beginning"
    assert all(len(record.reports) >= 1 for record in records)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("needed", [2, 3])
def test_it_waits_for_the_first_moment_at_which_enough_are_on_together(tmp_path, needed: int, seed: int) -> None:
    """Who is on first may be off again when the next one comes on."""
    data, clock = tiny_data(clients=10), HalfNormal(available=0.2, cycle=10.0)
    runtime = VirtualRuntime(InProcessRuntime(infos(data), lambda: None), clock, seed)

    def on(moment: float) -> int:
        return sum(clock.next_on(client.name, seed, moment) == moment for client in infos(data))

    for begin in (0.0, 3.7, 16.2):
        runtime.virtual_time = VirtualTime(begin)
        found = len(runtime.clients(needed))
        assert found == on(runtime.virtual_time.now) >= needed
        assert all(on(moment) < needed for moment in np.arange(begin, runtime.virtual_time.now - 1e-6, 0.02))


def test_clients_that_are_never_on_together_are_said_to_be(tmp_path) -> None:
    clock, rule = HalfNormal(available=0.01, cycle=1000.0), ClientSampler(1.0, 3, seed=3)
    with pytest.raises(NotEnoughClients, match=r"clock\.available: .* needs 3 clients, and never are more than 1 on"):
        timed(tmp_path, plan(Sync(), 3, rule), clock)


def test_who_is_off_still_counts_as_a_client(tmp_path) -> None:
    """SCAFFOLD and FedDyn divide by the number of all clients, whether or not they are on."""
    seen: list[tuple[int, int]] = []

    class Watching(FedAvg):
        def step(self, state, total, ctx):
            seen.append((ctx.population, total.count))
            return super().step(state, total, ctx)

    timed(tmp_path, plan(Sync(), 4), HalfNormal(available=0.5, cycle=7.0), data=tiny_data(10), strategy=Watching())
    assert {population for population, _ in seen} == {10}
    assert all(count < 10 for _, count in seen)


@pytest.mark.parametrize("schedule", [FedBuff(buffer_size=1), FedAsync()], ids=["fedbuff", "fedasync"])
def test_what_is_said_of_an_update_s_length_is_of_what_is_added_up(tmp_path, schedule) -> None:
    """One update a step: the model moves by as much, whatever its staleness made of it."""
    clock = Listed(times={f"client{index}": 1.0 + index for index in range(4)})
    _, records, _ = timed(tmp_path, plan(schedule, 8), clock)
    assert max(max(record.staleness) for record in records) > 1
    for record in records:
        assert record.reports[0].metrics["update_norm"].value == pytest.approx(record.update_norm, rel=1e-4)


def test_answers_ahead_of_their_moment_are_few(tmp_path, monkeypatch) -> None:
    """One quick client and nine slow ones: whenever the quick one is due, there is time for one of the others, too."""
    held: list[int] = []

    class Watched(VirtualRuntime):
        def next_result(self, *, short):
            held.append(len(self._outcomes))
            return super().next_result(short=short)

    monkeypatch.setattr("tests.federation.timed.VirtualRuntime", Watched)
    clock = Listed(times={f"client{index}": 1.0 if index else 0.01 for index in range(10)})
    timed(tmp_path, plan(FedBuff(buffer_size=1, concurrency=10), 20), clock, data=tiny_data(10))
    assert 0 < max(held) <= AHEAD


def test_a_client_that_comes_on_is_asked_at_that_moment(tmp_path) -> None:
    """An asynchronous server whose clients are mostly off gives out tasks between arrivals."""
    clock = Listed(available=0.2, cycle=50.0, times={f"client{index}": 30.0 for index in range(4)})
    _, records, _ = timed(tmp_path, plan(FedBuff(buffer_size=1, concurrency=4), 6), clock)
    comes_on = {
        clock.next_on(f"client{index}", 3, begin) for index in range(4) for begin in range(0, 300, 10)
    }  # of tasks of 30 seconds and 10 seconds on, every one begins as its client comes on
    begins = [record.virtual_seconds - 30.0 for record in records]
    assert all(min(abs(begin - moment) for moment in comes_on) < 1e-6 for begin in begins)
    assert len(set(begins)) > 3
