"""Who attacks, and federations of the tiny model under attack."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.aggregation.updates import TRAINABLE, answer, behind, random_updates
from tests.helpers import combined, infos, tiny_data, tiny_trainer

from fedlens.aggregation.base import AggregationRule
from fedlens.aggregation.mean import MeanRule
from fedlens.aggregation.median import Median
from fedlens.attacks.alie import ALittleIsEnough, moments_of
from fedlens.attacks.backdoor import Backdoor
from fedlens.attacks.base import Attack
from fedlens.attacks.gaussian import Gaussian
from fedlens.attacks.label_flip import LabelFlip
from fedlens.attacks.plan import AttackPlan, malicious_clients
from fedlens.attacks.scale import Scale
from fedlens.attacks.sign_flip import SignFlip
from fedlens.core.types import Task, TaskSettings
from fedlens.runtimes.in_process import InProcessRuntime
from fedlens.runtimes.local import LocalRuntime
from fedlens.strategies.base import add
from fedlens.strategies.fedavg import FedAvg
from fedlens.training.algorithm import Algorithm
from fedlens.training.evaluation import evaluate
from fedlens.training.settings import LocalSettings

DATA = tiny_data(clients=10, per_client=12)
SETTINGS = LocalSettings(batch_size=4, epochs=2)
NAMES = [client.name for client in DATA.clients]


def attack_plan(attack: Attack, *malicious: str) -> AttackPlan:
    return AttackPlan(attack, frozenset(malicious or ("client1", "client6")), classes=3, seed=0)


def accuracy_under(attack: Attack | None, rule: AggregationRule, folder, rounds: int = 6) -> float:
    """Test accuracy of the tiny model after some rounds of ten clients, two of them malicious."""
    algorithm = Algorithm(FedAvg(), rule=rule, attack_plan=attack_plan(attack) if attack else None)
    trainer = tiny_trainer(algorithm, DATA, folder, SETTINGS)
    place, state = InProcessRuntime(infos(DATA), lambda: trainer), trainer.model.state()
    for number in range(1, rounds + 1):
        place.submit(Task(name, number, "train", state, TaskSettings(lr=0.1)) for name in NAMES)
        total = combined(place.completed(), trainer.partial_sum(1, {}))
        assert total is not None
        state = add(state, total.delta)
    trainer.model.load(state)
    return evaluate(trainer.model.module, trainer._examples(DATA.test, None), 3).accuracy


def test_the_first_of_a_seeded_order_are_malicious() -> None:
    fifth, half = malicious_clients(NAMES, 0.2, 0), malicious_clients(NAMES, 0.5, 0)
    assert (len(fifth), len(half)) == (2, 5)
    assert fifth < half
    assert malicious_clients(NAMES, 0.2, 0) == fifth
    assert any(malicious_clients(NAMES, 0.2, seed) != fifth for seed in range(1, 5))
    assert len(malicious_clients(NAMES, 0.3, 0)) == 3
    assert malicious_clients(NAMES[:4], 0.2, 0) == frozenset()


def test_made_up_answers_replace_the_malicious_ones_only() -> None:
    updates = random_updates(4)
    seen = []

    class Recorder(type(MeanRule().aggregator(TRAINABLE))):
        def add(self, one) -> None:
            seen.append(one)
            super().add(one)

    stream = behind(attack_plan(SignFlip(factor=2.0), "client0", "client2"), Recorder())
    assert not stream.mergeable
    for index, update in enumerate(updates):
        stream.add(answer(f"client{index}", update, 5.0))
    stream.result()
    assert [one.client for one in seen] == ["client1", "client3", "client0", "client2"]
    for one, source, factor in zip(seen, (1, 3, 0, 2), (1, 1, -2, -2), strict=True):
        assert torch.equal(one.payload["bias"], factor * updates[source]["bias"])
        assert torch.equal(one.payload["running_var"], updates[source]["running_var"])
        assert one.report.weight == 5.0


def one_round(attack: Attack, *updates: tuple[str, float, float]) -> float:
    """The mean of (client, update, weight)."""
    stream = behind(attack_plan(attack, "evil"), MeanRule().aggregator(TRAINABLE))
    for client, value, weight in updates:
        stream.add(answer(client, {"bias": torch.tensor([value])}, weight))
    total = stream.result()
    assert total is not None
    return total.delta["bias"].item()


def test_model_replacement_undoes_a_weighted_mean() -> None:
    # γ = (3 + 1) / 1, so that the mean is (3 · 0 + 1 · 4 · 1) / 4 = 1, the malicious model; by numbers, γ = 2 gives 0.5
    assert one_round(Scale(), ("honest", 0.0, 3.0), ("evil", 1.0, 1.0)) == pytest.approx(1.0)


def test_a_single_malicious_client_knows_the_deviation_of_the_others() -> None:
    # the others' 1 and 3: μ = 2, σ = 1, sent is 2 − 1.5; the mean of 1, 3 and 0.5. Its own 7 is nowhere in it
    updates = (("a", 1.0, 1.0), ("evil", 7.0, 1.0), ("b", 3.0, 1.0))
    assert one_round(ALittleIsEnough(z=1.5), *updates) == pytest.approx(1.5)
    assert one_round(ALittleIsEnough(z=1.5, knows="own"), *updates) == pytest.approx(11 / 3)
    assert one_round(ALittleIsEnough(z=1.5), ("evil", 7.0, 1.0)) == pytest.approx(7.0)  # nobody else is there


def test_running_moments_are_those_of_all_updates() -> None:
    updates = random_updates(5)
    moments = moments_of(updates)
    for name in updates[0]:
        values = torch.stack([update[name] for update in updates])
        torch.testing.assert_close(moments.mean[name], values.mean(0))
        torch.testing.assert_close(moments.deviation[name], values.std(0, correction=0))


def test_a_round_without_a_malicious_answer_is_an_honest_one() -> None:
    stream = behind(attack_plan(Gaussian(std=100.0), "elsewhere"), MeanRule().aggregator(TRAINABLE))
    updates = random_updates(3)
    for index, update in enumerate(updates):
        stream.add(answer(f"client{index}", update))
    total = stream.result()
    assert total is not None
    assert torch.allclose(total.delta["bias"], torch.stack([update["bias"] for update in updates]).mean(0))


def test_poisoned_images_leave_the_sum_to_the_workers() -> None:
    aggregator = MeanRule().aggregator(TRAINABLE)
    assert behind(attack_plan(LabelFlip()), aggregator) is aggregator


def test_only_malicious_clients_train_on_poisoned_images(tmp_path) -> None:
    algorithm = Algorithm(FedAvg(), attack_plan=attack_plan(LabelFlip()))
    attacked = tiny_trainer(algorithm, DATA, tmp_path / "a", SETTINGS)
    honest = tiny_trainer(FedAvg(), DATA, tmp_path / "b", SETTINGS)
    state = honest.model.state()
    for name, same in (("client0", True), ("client1", False)):
        task = Task(name, 1, "train", state, TaskSettings(lr=0.1))
        one, other = attacked.run(task), honest.run(task)
        assert torch.equal(one.payload["head.weight"], other.payload["head.weight"]) is same
        home = Task(name, 1, "evaluate", state)
        assert attacked.run(home).report == honest.run(home).report  # what it tests on is not poisoned


@pytest.mark.parametrize("attack", [SignFlip(factor=10.0), Gaussian(std=5.0)], ids=["sign_flip", "gaussian"])
def test_a_mean_is_wrecked_and_a_median_survives(attack, tmp_path) -> None:
    assert accuracy_under(None, MeanRule(), tmp_path) == 1.0
    assert accuracy_under(attack, MeanRule(), tmp_path) < 0.7
    assert accuracy_under(attack, Median(), tmp_path) >= 0.9


def test_a_backdoor_is_learnt_from_poisoned_images(tmp_path) -> None:
    everybody = attack_plan(Backdoor(patch=3, target=2, share=0.5), *NAMES)
    trainer = tiny_trainer(Algorithm(FedAvg(), attack_plan=everybody), DATA, tmp_path, SETTINGS)
    examples = trainer._training("client0")
    _, labels = next(examples.once(12))
    rows = torch.from_numpy(DATA.clients[0].train)
    changed = labels != DATA.labels[rows]
    assert 0 < int(changed.sum()) <= 6
    assert (labels[changed] == 2).all()


@pytest.mark.parametrize("workers", [1, 3])
def test_worker_processes_attack_alike(workers: int, tmp_path) -> None:
    """Images are poisoned in the workers, updates made up where they come together: the same in any runtime."""
    algorithm = Algorithm(FedAvg(), rule=Median(), attack_plan=attack_plan(ALittleIsEnough(z=1.0)))
    make = lambda: tiny_trainer(algorithm, DATA, tmp_path, SETTINGS)  # noqa: E731
    trainer = make()
    state, deltas = trainer.model.state(), []
    for place in (
        InProcessRuntime(infos(DATA), make),
        LocalRuntime(infos(DATA), make, workers=workers, threads_per_worker=1, start_method="fork"),
    ):
        place.submit(Task(name, 1, "train", state, TaskSettings(lr=0.1)) for name in NAMES)
        total = combined(place.completed(), trainer.partial_sum(1, {}))
        place.close()
        assert total is not None
        deltas.append(total.delta)
    for name, value in deltas[0].items():
        assert np.allclose(value.numpy(), deltas[1][name].numpy(), atol=1e-6), name
