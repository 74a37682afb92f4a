"""The largest share of a step's weight: values worked out by hand, and the equation itself."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.aggregation.updates import answer, behind, points
from tests.helpers import tiny_data, tiny_trainer

from fedlens.aggregation.mean import WeightedMean
from fedlens.build.builders import build_algorithm
from fedlens.build.load import load
from fedlens.training.settings import LocalSettings
from fedlens.transforms.limited_share import HeaviestResults, LimitedShare, largest_weight

CASES = [
    # nobody is above
    ([1, 1, 1], 0.5, [1, 1, 1]),
    ([2, 1, 1], 0.5, [2, 1, 1]),
    # one is: c = s (c + 2) = 0.5 · 2 / (1 − 0.5) = 2
    ([100, 1, 1], 0.5, [2, 1, 1]),
    ([1, 4.6e19, 1], 0.5, [1, 2, 1]),
    # c = 0.3 · 10 / 0.7 = 30/7 is below the second: two are, and c = 0.3 · 4 / (1 − 0.6) = 3
    ([10, 6, 2, 2], 0.3, [3, 3, 2, 2]),
    # three are: c = 0.25 · 7 / (1 − 0.75) = 7
    ([50, 40, 30, 4, 3], 0.25, [7, 7, 7, 4, 3]),
    # all n = 1/s must have the share s; fewer cannot have less than 1/n each
    ([9, 3, 1], 1 / 3, [1, 1, 1]),
    ([9, 3], 0.25, [3, 3]),
    ([7], 0.5, [7]),
]


@pytest.mark.parametrize(("weights", "share", "expected"), CASES)
def test_reduced_weights(weights: list[float], share: float, expected: list[float]) -> None:
    limit = largest_weight(weights, share)
    assert [min(weight, limit) for weight in weights] == pytest.approx(expected)


@pytest.mark.parametrize(("weights", "share", "expected"), CASES)
def test_the_mean_has_these_weights_in_whatever_order_answers_come(weights, share, expected) -> None:
    updates = points(*([float(i == k) for k in range(len(weights))] for i in range(len(weights))))  # unit vectors
    for order in itertools.islice(itertools.permutations(range(len(weights))), 24):
        sums = behind(LimitedShare(share), WeightedMean())
        for index in order:
            sums.add(answer(str(index), updates[index], weights[index]))
        total = sums.result()
        assert total.delta["bias"].tolist() == pytest.approx([weight / sum(expected) for weight in expected])
        assert (total.weight, total.count) == (pytest.approx(sum(expected)), len(weights))


def test_a_sum_over_images_is_reduced_with_the_weight() -> None:
    """FedNova's work n_i τ_i: τ_eff = Σ n_i τ_i / Σ n_i, which a client of 100 images counts in as one of 2."""
    sums = behind(LimitedShare(0.5), WeightedMean())
    for name, images, steps in (("a", 100.0, 7.0), ("b", 1.0, 3.0), ("c", 1.0, 3.0)):
        sums.add(answer(name, points([0.0])[0], images, {"work": torch.tensor(images * steps)}))
    total = sums.result()
    assert float(total.extra["work"]) * total.count / total.weight == pytest.approx((2 * 7 + 3 + 3) / 4)


def test_only_those_that_can_be_reduced_are_kept() -> None:
    receiver = HeaviestResults(0.4)
    for index in range(20):
        receiver.add(answer(str(index), points([1.0])[0], float(index % 7 + 1)))
        assert len(receiver._heaviest) <= 2  # 1 / 0.4 = 2.5


def test_nothing_taken_in() -> None:
    assert behind(LimitedShare(0.5), WeightedMean()).result() is None


def test_the_key_reaches_the_clients_sums(tmp_path) -> None:
    """Rows 12, 4: the mean of two clients that count alike, whatever their images."""
    algorithm = build_algorithm(load(None, ["server.max_weight_share=0.5"]))
    assert not algorithm.summed
    data = tiny_data(clients=2)
    sums = tiny_trainer(algorithm, data, tmp_path, LocalSettings(batch_size=4)).partial_sum(1, {})
    assert not sums.mergeable
    names = sorted(tiny_trainer(algorithm, data, tmp_path, LocalSettings(batch_size=4)).shared)
    for name, value, images in (("a", 1.0, 12.0), ("b", 3.0, 4.0)):
        sums.add(answer(name, dict.fromkeys(names, torch.tensor([value])), images))
    assert sums.result().delta[names[0]].item() == pytest.approx(2.0)


@pytest.mark.fuzz
@given(st.lists(st.floats(1e-3, 1e9), min_size=1, max_size=12), st.floats(0.01, 0.99))
def test_any_weights(weights: list[float], share: float) -> None:
    limit = largest_weight(weights, share)
    after = [min(weight, limit) for weight in weights]
    if len(weights) * share <= 1:
        assert max(after) == pytest.approx(min(after))
    else:
        assert max(after) <= share * sum(after) * (1 + 1e-6)
        if limit < max(weights):  # no more is taken away than has to be
            assert max(after) == pytest.approx(share * sum(after), rel=1e-6)
