"""Securely aggregated rounds over real runtimes: the same model as without, whoever is lost when."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

import pytest
import torch
from tests.helpers import Memory, infos, plain_mean, tiny_data, tiny_trainer

from fedlens.core.types import ClientFailure
from fedlens.errors import NotEnoughClients
from fedlens.federation.bookkeeping import Bookkeeping
from fedlens.federation.checkpoints import Checkpoint, Checkpoints
from fedlens.federation.coordinator import Coordinator, RunPlan
from fedlens.federation.rounds.secure import SecureAggregation, SecureRounds
from fedlens.federation.rounds.synchronous import SynchronousRounds
from fedlens.federation.sampling import ClientSampler
from fedlens.privacy.base import LEAVES
from fedlens.runtimes.in_process import InProcessRuntime
from fedlens.runtimes.local import LocalRuntime
from fedlens.secure_aggregation.server import MaskedSum
from fedlens.strategies.fedavg import FedAvg
from fedlens.strategies.fednova import FedNova
from fedlens.strategies.scaffold import Scaffold
from fedlens.training.settings import LocalSettings

SETTINGS = LocalSettings(batch_size=4)
STAGES = ("secure_keys", "secure_shares", "secure_train", "secure_survivors", "secure_unmask")
DATA = tiny_data(clients=5)


@dataclass
class Watched:
    """A runtime that keeps every task and outcome. `lose`: (kind, attempt) → clients that do not answer."""

    inner: object
    lose: dict = field(default_factory=dict)
    tasks: list = field(default_factory=list)
    outcomes: list = field(default_factory=list)

    def __getattr__(self, name: str):
        return getattr(self.inner, name)

    def submit(self, tasks, enough=None):
        there = []
        self.missing = []
        for task in tasks:
            gone = task.client in self.lose.get((task.kind, task.stage.attempt), ())
            (self.missing if gone else there).append(task)
        self.tasks += [*there, *self.missing]
        self.inner.submit(there, enough)

    def completed(self, timeout=None):
        for task in self.missing:
            yield ClientFailure(task.client, task.round, "lost", answered=False)
        for outcome in self.inner.completed(timeout):
            self.outcomes.append(outcome)
            yield outcome


def run(
    folder, how=None, *, lose=None, strategy=None, workers=0, rounds=2, quorum=1, notes=None, data=DATA, seen=None,
    make_aggregator=plain_mean,
):  # fmt: skip
    """One run, securely aggregated with `how`. Gives the end, the records and the runtime."""
    strategy = strategy or FedAvg()
    make = partial(tiny_trainer, strategy, data, folder / "clients", SETTINGS)
    trainer = make()
    inner = (
        LocalRuntime(infos(data), make, workers=workers, threads_per_worker=1, start_method="fork")
        if workers
        else InProcessRuntime(infos(data), lambda: trainer)
    )
    runtime = Watched(inner, lose or {})
    (seen if seen is not None else []).append(runtime)
    protocol = partial(SecureRounds, how=how) if how else SynchronousRounds
    plan = RunPlan(rounds, ClientSampler(1.0, 1, seed=3), lambda _round: 0.1, quorum=quorum, protocol=protocol)
    memory = Memory()
    books = Bookkeeping([memory], Checkpoints(folder / "checkpoints"))
    note = (notes if notes is not None else []).append
    coordinator = Coordinator(plan, strategy, runtime, trainer.model.trainable, books, make_aggregator, note=note)
    try:
        end = coordinator.run(Checkpoint(0, strategy.init(trainer.model.state())))
        return end, memory.records, runtime
    finally:
        books.close()
        runtime.close()


def close(one, other, tolerance=1e-6) -> bool:
    return one.keys() == other.keys() and all(
        torch.allclose(value, other[name], rtol=0, atol=tolerance) for name, value in one.items()
    )


@pytest.mark.parametrize("strategy", [FedAvg(), FedNova(), Scaffold()], ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("workers", [0, 2])
def test_the_model_is_that_of_the_plain_run(tmp_path, strategy, workers: int) -> None:
    """Equal to float32's rounding: 64 bits leave steps far below it."""
    plain, before, _ = run(tmp_path / "plain", strategy=strategy, workers=workers)
    secure, records, _ = run(tmp_path / "secure", SecureAggregation(), strategy=strategy, workers=workers)
    assert close(secure.state.shared, plain.state.shared)
    assert close(secure.state.extra, plain.state.extra)
    assert all(value.dtype == plain.state.shared[name].dtype for name, value in secure.state.shared.items())
    assert secure.versions == plain.versions
    assert [len(record.reports) for record in records] == [len(record.reports) for record in before]
    assert not [*(tmp_path / "secure").rglob("stages/*")], "secrets are wiped"


def test_32_bits_are_as_exact_as_their_steps(tmp_path) -> None:
    plain, _, _ = run(tmp_path / "plain", rounds=1)
    secure, _, _ = run(tmp_path / "secure", SecureAggregation(bits=32), rounds=1)
    assert close(secure.state.shared, plain.state.shared, 1e-6)
    masked, _, runtime = run(tmp_path / "again", SecureAggregation(bits=32, neighbours=2), rounds=1)
    assert close(masked.state.shared, secure.state.shared, 1e-7)
    sent = [one for one in runtime.outcomes if one.kind == "secure_train"]
    assert {value.dtype for one in sent for value in one.payload.values()} == {torch.int32}


@pytest.mark.parametrize("kind", STAGES)
def test_a_client_lost_at_any_stage_is_recovered_from(tmp_path, kind: str) -> None:
    """The model is that of the clients whose masked updates had come, as a plain run without the others has it."""
    counted = kind in STAGES[3:]
    plain, _, _ = run(tmp_path / "plain", rounds=1, lose={} if counted else {("train", 0): {"client1"}})
    secure, (record,), _ = run(tmp_path / "secure", SecureAggregation(), rounds=1, lose={(kind, 0): {"client1"}})
    assert close(secure.state.shared, plain.state.shared)
    assert len(record.reports) == (5 if counted else 4)
    assert [failure.client for failure in record.failures] == ["client1"]
    assert secure.versions == plain.versions


@pytest.mark.parametrize("kind", STAGES)
def test_below_the_threshold_the_round_begins_again_with_new_keys(tmp_path, kind: str) -> None:
    notes: list[str] = []
    lost = {"client0", "client1", "client2"}
    plain, _, _ = run(tmp_path / "plain", rounds=1)
    secure, (record,), runtime = run(
        tmp_path / "secure", SecureAggregation(), rounds=1, lose={(kind, 0): lost}, notes=notes
    )
    assert close(secure.state.shared, plain.state.shared)
    assert len(record.reports) == 5 and {failure.client for failure in record.failures} == lost
    assert len(notes) == 1 and "begins again with new keys" in notes[0]
    first, second = ({task.settings.session for task in runtime.tasks if task.kind == "secure_keys"
                      and task.stage.attempt == attempt} for attempt in (0, 1))  # fmt: skip
    assert len(first) == len(second) == 1 and first != second
    opened = [task for task in runtime.tasks if task.kind == "secure_unmask" and task.stage.attempt == 0]
    assert not opened or kind == "secure_unmask"


@pytest.mark.parametrize("kind", STAGES)
def test_an_attempt_counts_as_a_release_just_before_anything_of_it_may_be_opened(tmp_path, kind: str) -> None:
    """An aggregator is made then: where clients have added noise, that spends. An attempt of which nothing can have
    been opened costs nothing."""
    seen: list[Watched] = []
    before: list[str] = []

    def made(ctx, kept):
        before.append(seen[0].tasks[-1].kind)
        return plain_mean(ctx, kept)

    lost = {(kind, 0): {"client0", "client1", "client2"}}
    run(tmp_path, SecureAggregation(), rounds=1, lose=lost, seen=seen, make_aggregator=made)
    assert before == ["secure_survivors"] * (2 if kind == "secure_unmask" else 1)


def test_after_three_attempts_the_run_ends_with_a_line(tmp_path) -> None:
    lose = {("secure_train", attempt): {"client0", "client1"} for attempt in range(3)}
    with pytest.raises(NotEnoughClients, match=r"3 of 5 clients are left, and 4 are needed; lost"):
        run(tmp_path, SecureAggregation(), rounds=1, lose=lose)


def test_survivors_whose_masks_are_in_parts_are_not_opened(tmp_path, monkeypatch) -> None:
    """A ring of nine, of which every third client is lost: each pair's sum would be seen."""
    data = tiny_data(clients=9)
    names = [info.name for info in infos(data)]
    ring = {name: frozenset({names[place - 1], names[(place + 1) % 9]}) for place, name in enumerate(names)}
    monkeypatch.setattr("fedlens.federation.rounds.secure.graph", lambda *_: ring)
    lose = {("secure_train", attempt): set(names[2::3]) for attempt in range(3)}
    runtimes: list[Watched] = []
    with pytest.raises(NotEnoughClients, match="masks do not connect the 6 clients that are left"):
        run(tmp_path, SecureAggregation(neighbours=2), data=data, rounds=1, lose=lose, seen=runtimes)
    assert {task.kind for task in runtimes[0].tasks} == set(STAGES[:3]), "nobody is asked for a share"


def test_a_client_that_gives_wrong_shares_is_named_and_the_round_goes_on(tmp_path, monkeypatch) -> None:
    honest = MaskedSum.opened

    def opened(self, client, shares):
        lies = client == "client1"
        honest(self, client, {owner: share[::-1] if lies else share for owner, share in shares.items()})

    monkeypatch.setattr(MaskedSum, "opened", opened)
    plain, _, _ = run(tmp_path / "plain", rounds=1)
    secure, (record,), _ = run(tmp_path / "secure", SecureAggregation(), rounds=1)
    assert close(secure.state.shared, plain.state.shared)
    assert [
        (failure.client, "secret was wrong, and was left out" in failure.reason) for failure in record.failures
    ] == [("client1", True)]


def test_a_quorum_above_the_threshold_counts(tmp_path) -> None:
    notes: list[str] = []
    lose = {("secure_train", 0): {"client0"}}
    run(tmp_path, SecureAggregation(), rounds=1, lose=lose, quorum=5, notes=notes)
    assert "4 of 5 clients are left, and 5 are needed" in notes[0]


def test_a_client_whose_numbers_are_too_large_is_a_client_that_failed(tmp_path) -> None:
    with pytest.raises(NotEnoughClients, match=r"has a number that is larger .* use a larger privacy.secure_largest"):
        run(tmp_path, SecureAggregation(largest=1e-6), rounds=1)


def test_what_leaves_a_client_tells_nothing_of_its_update(tmp_path) -> None:
    """Every report, and no two masked updates alike; of the same client with the same update in two runs, too."""
    seen = set()
    for folder in ("a", "b"):
        _, records, runtime = run(tmp_path / folder, SecureAggregation())
        for outcome in runtime.outcomes:
            report = outcome.report
            assert report.weight == 1
            assert set(report.metrics) == (set(LEAVES) if outcome.kind == "secure_train" else set())
            seen |= {value.numpy().tobytes() for value in outcome.payload.values()}
        assert sum(len(outcome.payload) for outcome in runtime.outcomes) == sum(1 for _ in every(runtime))
        assert all(set(report.metrics) == set(LEAVES) for record in records for report in record.reports)
        assert records[0].train_loss != records[0].train_loss, "NaN: losses stay at home"
    assert len(seen) == 2 * sum(1 for _ in every(runtime)), "no tensor came twice"


def every(runtime):
    return (value for outcome in runtime.outcomes for value in outcome.payload.values())


def test_bytes_are_those_of_all_stages(tmp_path) -> None:
    _, (record,), runtime = run(tmp_path, SecureAggregation(), rounds=1)
    up = sum(value.nbytes for value in every(runtime))
    down = sum(value.nbytes for task in runtime.tasks for value in task.payload.values())
    assert (record.bytes_up, record.bytes_down) == (up, down)


def test_a_masked_update_is_sent_once(tmp_path) -> None:
    """A server that asks for it again, with the same keys, gets nothing."""
    trainer = tiny_trainer(FedAvg(), DATA, tmp_path, SETTINGS)
    tasks = {}

    class Once(Watched):
        def submit(self, asked, enough=None):
            asked = list(asked)
            tasks.update({task.kind: task for task in asked if task.client == "client0"})
            super().submit(asked, enough)

    runtime = Once(InProcessRuntime(infos(DATA), lambda: trainer), {("secure_survivors", 0): {"client0"}})
    plan = RunPlan(
        1, ClientSampler(1.0, 1, seed=3), lambda _round: 0.1, protocol=partial(SecureRounds, how=SecureAggregation())
    )
    books = Bookkeeping([Memory()], Checkpoints(tmp_path / "checkpoints"))
    Coordinator(plan, FedAvg(), runtime, trainer.model.trainable, books, plain_mean).run(
        Checkpoint(0, FedAvg().init(trainer.model.state()))
    )
    books.close()
    answer = trainer.run(replace(tasks["secure_train"], settings=replace(tasks["secure_train"].settings, present=())))
    assert isinstance(answer, ClientFailure) and "last stage was mask" in answer.reason
    assert not [*tmp_path.rglob("stages/*")], "its part has ended"
