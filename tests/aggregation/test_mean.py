import pytest
import torch
from tests.helpers import tiny_data, tiny_trainer

from fedlens.aggregation.mean import MeanRule, WeightedMean
from fedlens.core.types import ClientReport, ClientResult, Task, TaskSettings
from fedlens.strategies.fedavg import FedAvg
from fedlens.training.algorithm import Algorithm
from fedlens.training.settings import LocalSettings


def answer(client: str, value: float, weight: float, extra: float = 0.0) -> ClientResult:
    return ClientResult(
        1, "train", ClientReport(client, weight, {}), {"w": torch.tensor([value])}, {"e": torch.tensor([extra])}
    )


def test_weighted_by_images() -> None:
    # (10·1 + 30·3) / 40 = 2.5; extras are averaged per client: (1 + 2) / 2
    mean = WeightedMean()
    mean.add(answer("a", 1.0, 10, extra=1.0))
    mean.add(answer("b", 3.0, 30, extra=2.0))
    total = mean.result()
    assert total is not None
    assert total.delta["w"].item() == pytest.approx(2.5)
    assert total.extra["e"].item() == pytest.approx(1.5)
    assert (total.weight, total.count) == (40, 2)


@pytest.mark.parametrize(("weights", "weight"), [(None, 7.5), ("examples", 30.0), ("uniform", 1.0)])
def test_who_counts_how_much(weights, weight: float) -> None:
    assert MeanRule(weights).weight(7.5, 30) == weight


def test_uniform_weights_reach_the_clients(tmp_path) -> None:
    trainer = tiny_trainer(
        Algorithm(FedAvg(), rule=MeanRule("uniform")), tiny_data(), tmp_path, LocalSettings(batch_size=4)
    )
    answer = trainer.run(Task("client0", 1, "train", trainer.model.state(), TaskSettings(lr=0.1)))
    assert answer.report.weight == 1.0


def test_partial_sums_merge_to_the_same_total() -> None:
    whole, left, right, merged = (WeightedMean() for _ in range(4))
    for index, part in enumerate((left, left, right)):
        one = answer(str(index), 1.5 * index, 10.0 * (index + 1), extra=float(index))
        whole.add(one)
        part.add(one)
    merged.merge(left.partial(1))
    merged.merge(right.partial(1))
    expected, found = whole.result(), merged.result()
    assert expected is not None
    assert found is not None
    assert torch.allclose(found.delta["w"], expected.delta["w"])
    assert torch.allclose(found.extra["e"], expected.extra["e"])
    assert found.count == 3


def test_an_answer_is_not_changed_by_being_added() -> None:
    one, two = answer("a", 1.0, 10), answer("b", 3.0, 30)
    mean = WeightedMean()
    mean.add(one)
    mean.add(two)
    assert one.payload["w"].item() == 1.0
