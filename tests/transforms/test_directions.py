"""How far updates agree: against the cosines of the updates themselves."""

from itertools import combinations

import pytest
import torch
from tests.aggregation.updates import behind
from tests.helpers import combined, infos, tiny_data, tiny_trainer
from torch.nn.functional import cosine_similarity

from fedlens.aggregation.mean import WeightedMean
from fedlens.core.types import ClientReport, ClientResult, Task, TaskSettings
from fedlens.runtimes.local import LocalRuntime
from fedlens.strategies.fedavg import FedAvg
from fedlens.training.algorithm import Algorithm
from fedlens.training.client import ClientTrainer
from fedlens.training.settings import LocalSettings
from fedlens.transforms.directions import Directions

NAMES = frozenset({"a", "b"})


def answer(number: int, weight: float, a: list[float], b: list[float]) -> ClientResult:
    payload = {"a": torch.tensor(a), "b": torch.tensor(b), "statistics": torch.tensor([1e6])}
    return ClientResult(1, "train", ClientReport(f"client{number}", weight, {}), payload, {"own": torch.tensor(6.0)})


def collected(*answers: ClientResult):
    stream = behind(Directions(), WeightedMean(), NAMES)
    for one in answers:
        stream.add(one)
    return stream.result()


def test_two_at_right_angles() -> None:
    total = collected(answer(0, 1, [3.0], [0.0]), answer(1, 1, [0.0], [0.5]))
    # Δ = (1.5, 0.25), ‖Δ‖ = √2.3125: cosines 1.5 / ‖Δ‖ and 0.25 / ‖Δ‖
    assert total.measures["cosine/to_mean"] == pytest.approx(1.75 / 2 / 2.3125**0.5)
    assert total.measures["cosine/pairwise"] == pytest.approx(0.0, abs=1e-6)


def test_any_updates_and_weights_against_the_cosines_themselves() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(5, 4, generator=generator)
    answers = [answer(k, k + 1.0, row[:3].tolist(), row[3:].tolist()) for k, row in enumerate(rows)]
    total = collected(*answers)
    mean = (rows * torch.arange(1, 6)[:, None]).sum(0) / 15
    pairs = [cosine_similarity(rows[i], rows[j], dim=0) for i, j in combinations(range(5), 2)]
    assert total.measures["cosine/to_mean"] == pytest.approx(
        float(cosine_similarity(rows, mean[None]).mean()), rel=1e-5
    )
    assert total.measures["cosine/pairwise"] == pytest.approx(float(torch.stack(pairs).mean()), rel=1e-4)


def test_merged_shares_give_the_same_and_strategies_see_none_of_it() -> None:
    answers = [answer(k, 1.0, [k + 1.0], [2.0 - k]) for k in range(4)]
    whole = collected(*answers)
    left, right, both = (behind(Directions(), WeightedMean(), NAMES) for _ in range(3))
    for one in answers[:1]:
        left.add(one)
    for one in answers[1:]:
        right.add(one)
    both.merge(left.partial(1))
    both.merge(right.partial(1))
    merged = both.result()
    assert merged.measures == pytest.approx(whole.measures)
    assert set(merged.extra) == {"own"}
    assert merged.extra["own"] == 6
    assert torch.allclose(merged.delta["a"], torch.tensor([2.5]))


def test_an_update_of_length_zero_has_no_direction() -> None:
    still, one, other = answer(0, 1, [0.0], [0.0]), answer(1, 1, [1.0], [0.0]), answer(2, 1, [1.0], [0.0])
    assert collected(still, one, other).measures == pytest.approx({"cosine/to_mean": 1.0, "cosine/pairwise": 1.0})
    assert collected(still).measures == {}
    assert collected(one).measures == pytest.approx({"cosine/to_mean": 1.0})
    assert behind(Directions(), WeightedMean(), NAMES).result() is None


def test_worker_processes_measure_the_same(tmp_path) -> None:
    data = tiny_data(clients=5)
    settings = LocalSettings(batch_size=4)

    def make() -> ClientTrainer:
        plain = tiny_trainer(FedAvg(), data, tmp_path, settings)
        return ClientTrainer(
            plain.model, data, Algorithm(FedAvg(), directions=True), settings, plain._store, plain._prepare
        )

    trainer = make()
    state = trainer.model.state()
    tasks = [Task(client.name, 1, "train", state, TaskSettings(lr=0.1)) for client in infos(data)]
    updates = [trainer.run(task).payload for task in tasks]
    rows = torch.stack(
        [torch.cat([one[name].flatten() for name in sorted(trainer.model.trainable)]) for one in updates]
    )
    place = LocalRuntime(infos(data), make, workers=2, threads_per_worker=1, start_method="fork")
    try:
        place.submit(tasks)
        total = combined(place.completed(), trainer.partial_sum(1, {}))
    finally:
        place.close()
    expected = float(cosine_similarity(rows, rows.mean(0, keepdim=True)).mean())
    assert total.measures["cosine/to_mean"] == pytest.approx(expected, rel=1e-4)
    assert total.extra == {}


def test_clients_that_share_nothing_have_no_direction() -> None:
    stream = behind(Directions(), WeightedMean(), frozenset())
    stream.add(ClientResult(1, "train", ClientReport("client0", 1, {}), {}, {}))
    assert stream.result().measures == {}
