"""Rounds over the in-process runtime: cohorts, failures, evaluation, stopping, and going on from a checkpoint."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.helpers import Memory, infos, plain_mean, tiny_data, tiny_trainer

from fedlens.aggregation.krum import Krum
from fedlens.aggregation.mean import MeanRule, WeightedMean
from fedlens.core.records import Evaluation
from fedlens.core.types import ClientFailure
from fedlens.errors import NotEnoughClients, TrainingDiverged
from fedlens.federation.bookkeeping import Bookkeeping
from fedlens.federation.checkpoints import Checkpoint, Checkpoints
from fedlens.federation.coordinator import Coordinator, RunPlan
from fedlens.federation.measures import ClientMeasures
from fedlens.federation.sampling import ClientSampler
from fedlens.federation.stopping import StoppingSection
from fedlens.runtimes.in_process import InProcessRuntime
from fedlens.strategies.fedavg import FedAvg
from fedlens.strategies.fedavgm import FedAvgM
from fedlens.training.algorithm import Algorithm
from fedlens.training.sections import OptimizerSection
from fedlens.training.settings import LocalSettings

SETTINGS = LocalSettings(batch_size=4)
PLAN = RunPlan(num_rounds=4, sampler=ClientSampler(0.5, 2, seed=3), lr=lambda _round: 0.1)


def run(folder, plan=PLAN, strategy=None, start=None, data=None, settings=SETTINGS, **evaluators):
    """One coordinator's run; gives the end, the records and the checkpoints."""
    strategy, data = strategy or FedAvgM(), data or tiny_data()
    trainer = tiny_trainer(strategy, data, folder / "clients", settings)
    memory, checkpoints = Memory(), Checkpoints(folder / "checkpoints")
    books = Bookkeeping([memory], checkpoints)
    start = start or Checkpoint(0, strategy.init(trainer.model.state()))
    runtime = InProcessRuntime(infos(data), lambda: trainer)
    coordinator = Coordinator(plan, strategy, runtime, trainer.model.trainable, books, plain_mean, **evaluators)
    try:
        return coordinator.run(start), memory.records, checkpoints
    finally:
        books.close()


def test_what_else_is_measured_is_recorded_whenever_a_round_is_evaluated(tmp_path) -> None:
    asked = []

    def measure(shared):
        asked.append(shared["head.bias"].clone())
        return {"attack/success": 0.25}

    end, records, _ = run(tmp_path, replace(PLAN, evaluate_every=2), measure=measure)
    told = [{name: value for name, value in one.measures.items() if name != "norm/model"} for one in records]
    assert told == [{}, {"attack/success": 0.25}] * 2
    assert torch.equal(asked[-1], end.state.shared["head.bias"])


def test_the_length_is_that_of_the_model_that_a_round_begins_with(tmp_path) -> None:
    """Of what clients train: running statistics have no part in it."""
    model = tiny_trainer(FedAvgM(), tiny_data(), tmp_path / "first", SETTINGS).model
    trained = [value for name, value in model.state().items() if name in model.trainable]
    _, records, _ = run(tmp_path)
    assert records[0].measures["norm/model"] == pytest.approx(float(torch.cat([v.flatten() for v in trained]).norm()))
    assert records[1].measures["norm/model"] != records[0].measures["norm/model"]


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_training_lowers_the_loss_and_repeats_bit_for_bit(tmp_path) -> None:
    end, records, _ = run(tmp_path / "a")
    again, _, _ = run(tmp_path / "b")
    assert records[-1].train_loss < records[0].train_loss
    assert same(end.state.shared, again.state.shared)
    assert [len(record.reports) for record in records] == [2, 2, 2, 2]


@pytest.mark.parametrize("stop", [1, 2, 3])
@pytest.mark.parametrize("keep", [False, True], ids=["fresh", "kept-optimizer"])
def test_going_on_from_a_checkpoint_is_the_uninterrupted_run(tmp_path, stop: int, keep: bool) -> None:
    settings = LocalSettings(batch_size=4, training=OptimizerSection(keep=keep))
    whole, _, _ = run(tmp_path / "whole", settings=settings)
    _, _, checkpoints = run(tmp_path / "cut", replace(PLAN, num_rounds=stop), settings=settings)
    # a client that ran one round ahead of the checkpoint must be found as it was
    if keep:
        run(tmp_path / "cut", replace(PLAN, num_rounds=stop + 1), start=checkpoints.latest(print), settings=settings)
        checkpoint = checkpoints._load(stop)
    else:
        checkpoint = checkpoints.latest(print)
    end, records, _ = run(tmp_path / "cut", start=checkpoint, settings=settings)
    assert same(whole.state.shared, end.state.shared)
    assert same(whole.state.extra, end.state.extra)
    assert [record.round for record in records] == list(range(stop + 1, 5))


def test_the_cohort_rule_is_flowers() -> None:
    clients = infos(tiny_data(clients=10))
    for fraction, minimum, size in ((0.5, 2, 5), (0.05, 2, 2), (1.0, 1, 10), (0.8, 3, 8), (0.3, 1, 3)):
        cohort = ClientSampler(fraction, minimum, seed=0).choose(1, clients)
        assert len(cohort) == size
        assert len({client.name for client in cohort}) == size


def test_cohorts_differ_by_round_and_seed_and_repeat() -> None:
    clients = infos(tiny_data(clients=20))
    names = [
        tuple(client.name for client in ClientSampler(0.5, 2, seed).choose(number, clients))
        for seed, number in ((0, 1), (0, 2), (1, 1), (0, 1))
    ]
    assert len(set(names)) == 3
    assert names[0] == names[3]


def test_too_few_clients(tmp_path) -> None:
    with pytest.raises(NotEnoughClients, match=r"min_fit_clients=9.*4 client"):
        run(tmp_path, replace(PLAN, sampler=ClientSampler(0.5, 9, 0)))


def poisoned(clients: int):
    """Data whose first `clients` clients hold images that are not numbers."""
    data = tiny_data()
    images = data.images.permute(0, 3, 1, 2).float() / 255
    for client in data.clients[:clients]:
        images[torch.from_numpy(client.train)] = float("nan")
    return replace(data, images=images)


def test_a_diverged_client_is_dropped_and_reported(tmp_path) -> None:
    plan = replace(PLAN, sampler=ClientSampler(1.0, 2, 0))
    end, records, _ = run(tmp_path, plan, data=poisoned(1))
    assert [failure.client for failure in records[0].failures] == ["client0"]
    assert "not finite" in records[0].failures[0].reason
    assert len(records[0].reports) == 3
    assert all(value.isfinite().all() for value in end.state.shared.values())


def test_when_every_client_diverges_the_run_stops_with_advice(tmp_path) -> None:
    with pytest.raises(TrainingDiverged, match=r"none of the 2 clients.*optimizer\.lr"):
        run(tmp_path, data=poisoned(4))


def judged_by(losses: list[float]):
    """An evaluator that gives one loss after another, with accuracy 1 − loss."""
    remaining = iter(losses)

    def score(_shared) -> Evaluation:
        loss = next(remaining)
        right = round(100 * (1 - loss))
        return Evaluation(loss, np.array([[right, 100 - right], [0, 0]]))

    return score


def test_patience_stops_and_the_best_model_is_kept(tmp_path) -> None:
    plan = replace(PLAN, num_rounds=10, stopping=StoppingSection(patience=2))
    end, records, checkpoints = run(tmp_path, plan, validation=judged_by([0.5, 0.3, 0.4, 0.35, 0.1]))
    assert end.round == 4
    assert "not improved for 2 evaluations (best: round 2" in end.finished
    assert end.progress.best_round == 2
    best = checkpoints.load_best()
    assert best is not None
    assert not same(best, end.state.shared)
    assert len(records) == 4


def test_a_target_on_validation_stops(tmp_path) -> None:
    plan = replace(PLAN, stopping=StoppingSection(target_accuracy=0.6))
    end, _, _ = run(tmp_path, plan, validation=judged_by([0.5, 0.3, 0.2, 0.1]))
    assert end.round == 2
    assert "reached the target 0.6" in end.finished


def test_test_images_have_no_say_in_stopping(tmp_path) -> None:
    plan = replace(PLAN, stopping=StoppingSection(target_accuracy=0.1, patience=1))
    end, records, _ = run(tmp_path, plan, test=judged_by([0.1, 0.2, 0.3, 0.4]))
    assert end.round == 4
    assert records[0].test.accuracy == pytest.approx(0.9)


def test_evaluation_every_k_rounds_and_at_the_end(tmp_path) -> None:
    plan = replace(PLAN, num_rounds=5, evaluate_every=2, evaluate_clients_every=3)
    data = tiny_data()
    without = replace(data.clients[3], test=data.clients[3].test[:0])
    data = replace(data, clients=(*data.clients[:3], without))
    _, records, _ = run(tmp_path, plan, data=data, test=judged_by([0.5] * 5))
    assert [record.round for record in records if record.test] == [2, 4, 5]
    assert [record.round for record in records if record.clients] == [3, 5]
    assert [client.client for client in records[-1].clients] == ["client0", "client1", "client2"]
    sampled = {report.client for record in records for report in record.reports}
    assert all(client.trained == (client.client in sampled) for client in records[-1].clients)


def test_bytes_are_the_tensors_that_travel(tmp_path) -> None:
    # conv 4·9, norm 4 + 4 and its statistics 4 + 4, head 32·3 + 3: 151 floats, down and up, two clients
    _, records, _ = run(tmp_path, strategy=FedAvg())
    assert records[0].bytes_down == records[0].bytes_up == 2 * 151 * 4


class Unsteady(InProcessRuntime):
    """Clients that do not answer: `silent` gives, for each batch in turn, who."""

    def __init__(self, clients, make_trainer, silent) -> None:
        super().__init__(clients, make_trainer)
        self.may_be_late = True
        self._silent = iter(silent)
        self.asked: list[list[str]] = []
        self.enough: list[int | None] = []
        self.waited: list[int] = []

    def clients(self, at_least: int = 0):
        self.waited.append(at_least)
        return super().clients(at_least)

    def submit(self, tasks, enough=None) -> None:
        listed = list(tasks)
        self.asked.append([task.client for task in listed])
        self.enough.append(enough)
        away = next(self._silent, ())
        self._lost = [
            ClientFailure(task.client, task.round, "cut off", False) for task in listed if task.client in away
        ]
        super().submit([task for task in listed if task.client not in away], enough)

    def completed(self, timeout=None):
        yield from super().completed(timeout)
        yield from self._lost


def unsteady(folder, plan, silent, data=None, rule=None):
    """As `run`, with clients that do not answer; gives the end, the records, the runtime and what was said."""
    data = data or tiny_data()
    trainer = tiny_trainer(Algorithm(FedAvg(), rule=rule or MeanRule()), data, folder / "clients", SETTINGS)
    memory, notes = Memory(), []
    books = Bookkeeping([memory], Checkpoints(folder / "checkpoints"))
    runtime = Unsteady(infos(data), lambda: trainer, silent)
    coordinator = Coordinator(
        plan,
        FedAvg(),
        runtime,
        trainer.model.trainable,
        books,
        lambda _ctx, _kept: trainer.partial_sum(0, {}),
        note=notes.append,
    )
    try:
        return coordinator.run(Checkpoint(0, FedAvg().init(trainer.model.state()))), memory.records, runtime, notes
    finally:
        books.close()


EVERYBODY = tuple(f"client{index}" for index in range(4))
ALL = RunPlan(num_rounds=3, sampler=ClientSampler(1.0, 2, seed=3), lr=lambda _round: 0.1)


def test_a_round_without_a_quorum_is_begun_again(tmp_path) -> None:
    plan = replace(ALL, quorum=3)
    end, records, runtime, notes = unsteady(tmp_path / "a", plan, [(), EVERYBODY[:2], EVERYBODY])
    steady, _, _, _ = unsteady(tmp_path / "b", plan, [])
    assert same(end.state.shared, steady.state.shared)
    assert len(runtime.asked) == 5
    assert [len(record.reports) for record in records] == [4, 4, 4]
    assert [len(record.failures) for record in records] == [0, 6, 0]
    assert notes == [
        "round 2: 2 of 3 needed answers; it begins again",
        "round 2: 0 of 3 needed answers; it begins again",
    ]


def test_a_quorum_comes_before_the_rule_that_needs_it(tmp_path) -> None:
    """Krum with f = 0 needs three answers. A round with two is begun again; without the quorum, the run ends."""
    rounds = [(), EVERYBODY[:2], ()]
    _, records, _, notes = unsteady(tmp_path / "a", replace(ALL, quorum=3), rounds, rule=Krum(f=0))
    assert [len(record.reports) for record in records] == [4, 4, 4]
    assert notes == ["round 2: 2 of 3 needed answers; it begins again"]
    with pytest.raises(NotEnoughClients, match=r"krum needs .* = 3 .* there are 2"):
        unsteady(tmp_path / "b", ALL, rounds, rule=Krum(f=0))


def test_a_quorum_is_enough(tmp_path) -> None:
    _, records, runtime, notes = unsteady(tmp_path, replace(ALL, quorum=2), [EVERYBODY[:2]] * 3)
    assert [len(record.reports) for record in records] == [2, 2, 2]
    assert [sorted(failure.client for failure in record.failures) for record in records] == [["client0", "client1"]] * 3
    assert len(runtime.asked) == 3
    assert notes == []


def test_without_a_quorum_the_run_stops_and_is_kept(tmp_path) -> None:
    with pytest.raises(NotEnoughClients, match=r"round 2: fewer than federated\.quorum=3 .* 3 times over \(cut off\)"):
        unsteady(tmp_path, replace(ALL, quorum=3), [(), *[EVERYBODY[:2]] * 3])
    assert Checkpoints(tmp_path / "checkpoints").latest(print).round == 1


def test_one_that_answers_without_an_update_counts_for_the_quorum(tmp_path) -> None:
    """A diverged client has answered: the round would not be better if it began again."""
    _, records, _, notes = unsteady(tmp_path, replace(ALL, num_rounds=1, quorum=4), [], data=poisoned(1))
    assert (len(records[0].reports), len(records[0].failures)) == (3, 1)
    assert notes == []


def test_over_selection_asks_more_and_takes_as_many(tmp_path) -> None:
    rule = ClientSampler(0.5, 2, seed=3, over_selection=0.5)  # 2 of 4, and half of 2 more
    _, _, runtime, _ = unsteady(tmp_path, replace(ALL, sampler=rule), [])
    assert [len(asked) for asked in runtime.asked] == [3, 3, 3]
    assert runtime.enough == [2, 2, 2]
    assert runtime.waited == [2, 2, 2], "a round waits for federated.min_fit_clients"


def test_where_nobody_is_late_nobody_is_asked_in_vain(tmp_path) -> None:
    rule, notes = ClientSampler(0.5, 2, seed=3, over_selection=0.5), []
    end, records, _ = run(tmp_path / "a", replace(PLAN, sampler=rule), note=notes.append)
    plain, _, _ = run(tmp_path / "b", replace(PLAN, sampler=replace(rule, over_selection=0.0)))
    assert [len(record.reports) for record in records] == [2, 2, 2, 2]
    assert same(end.state.shared, plain.state.shared)
    assert notes == ["federated.over_selection is not used: without a clock (clock.name) no simulated client is late"]


@pytest.mark.parametrize(
    ("clients", "fraction", "share", "asked"),
    [
        (20, 0.5, 0.2, 12),  # 10, and a fifth of 10
        (20, 0.5, 0.0, 10),
        (20, 0.5, 0.01, 11),  # a part of a client is one
        (10, 0.3, 1.0, 6),
        (10, 1.0, 0.5, 10),  # never more than there are
        (10, 0.8, 0.5, 10),
        (30, 1 / 3, 0.1, 11),  # 10 and 1, whatever the binary digits
    ],
)
def test_how_many_are_asked(clients: int, fraction: float, share: float, asked: int) -> None:
    rule = ClientSampler(fraction, 1, seed=0, over_selection=share)
    known = infos(tiny_data(clients=clients))
    assert len(rule.choose(1, known)) == asked
    exact = replace(rule, over_selection=0.0)
    assert rule.size(clients) == len(exact.choose(1, known))


class Overflowing(FedAvg):
    """Steps out of all bounds in round 2; with `sends`, clients do before."""

    def __init__(self, sends: bool = False) -> None:
        object.__setattr__(self, "sends", sends)

    def step(self, state, total, ctx):
        after = super().step(state, total, ctx)
        if ctx.round < 2:
            return after
        return replace(after, shared={**after.shared, "head.bias": after.shared["head.bias"] * float("inf")})

    def finish(self, ctx, delta):
        contribution = super().finish(ctx, delta)
        return replace(contribution, extra={"squared": torch.tensor(float("inf"))}) if self.sends else contribution


def test_a_server_s_step_to_numbers_that_are_none_is_never_kept(tmp_path) -> None:
    with pytest.raises(TrainingDiverged, match=r"round 2: the server's step .* not finite, in head\.bias.*server_lr"):
        run(tmp_path, strategy=Overflowing())
    assert Checkpoints(tmp_path / "checkpoints").latest(print).round == 1


def test_what_a_strategy_would_send_is_finite_or_not_sent(tmp_path) -> None:
    with pytest.raises(TrainingDiverged, match=r"round 1: none of the 2 clients .*what it would send is not finite"):
        run(tmp_path, strategy=Overflowing(sends=True))


def test_records_say_who_attacks_and_what_needs_no_learning(tmp_path) -> None:
    """Floors of each client and of the validation, counted from the labels."""
    data = tiny_data()
    plan = replace(PLAN, num_rounds=1, evaluate_clients_every=1)
    malicious = frozenset({"client1"})
    _, (record,), _ = run(tmp_path, plan, data=data, malicious=malicious, validation=judged_by([0.25]))
    labels = data.labels.numpy()
    everybody = np.bincount(np.concatenate([labels[client.train] for client in data.clients])).argmax()
    assert record.chance == 1 / len(data.class_names)
    assert record.validation.majority == (1.0 if everybody == 0 else 0.0)  # all images of judged_by are of class 0
    for client, found in zip(data.clients, record.clients, strict=True):
        own = np.bincount(labels[client.train]).argmax()
        assert found.malicious == (client.name == "client1")
        assert found.majority == pytest.approx((labels[client.test] == everybody).mean())
        assert found.own_majority == pytest.approx((labels[client.test] == own).mean())


def test_the_server_computes_with_one_thread_and_evaluates_with_all(tmp_path, monkeypatch) -> None:
    """Workers need the processors while it adds up what they send; they have nothing to do while it evaluates."""
    threads: dict[str, set[int]] = {"merge": set(), "step": set(), "evaluate": set()}

    def seen(place: str, call):
        def counting(*given):
            threads[place].add(torch.get_num_threads())
            return call(*given)

        return counting

    monkeypatch.setattr(WeightedMean, "merge", seen("merge", WeightedMean.merge))
    monkeypatch.setattr(FedAvgM, "step", seen("step", FedAvgM.step))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run(tmp_path, test=seen("evaluate", lambda _: Evaluation(1.0, np.eye(3, dtype=np.int64))))
    finally:
        torch.set_num_threads(before)
    assert threads == {"merge": {1}, "step": {1}, "evaluate": {2}}


def test_a_round_counts_only_its_own_clients(tmp_path) -> None:
    """What everybody holds is counted once a run: of many thousands of clients that takes longer than a round."""
    looked: list[str] = []

    class Counts(dict):
        def __getitem__(self, split):
            looked.append(split)
            return super().__getitem__(split)

    def looks(rounds: int) -> int:
        looked.clear()
        data = tiny_data(clients=10)
        trainer = tiny_trainer(FedAvg(), data, tmp_path / f"clients{rounds}", SETTINGS)
        known = [replace(client, counts=Counts(client.counts)) for client in infos(data)]
        books, plan = Bookkeeping([], None), replace(PLAN, num_rounds=rounds, sampler=ClientSampler(0.1, 1, seed=3))
        shared = trainer.model.trainable
        Coordinator(
            plan,
            FedAvg(),
            InProcessRuntime(known, lambda: trainer),
            shared,
            books,
            plain_mean,
            test=lambda _checkpoint: Evaluation(1.0, np.eye(2, dtype=np.int64)),
            describe=ClientMeasures(shared, summed=True),
        ).run(Checkpoint(0, FedAvg().init(trainer.model.state())))
        books.close()
        return len(looked)

    assert looks(4) == looks(1) > 10
