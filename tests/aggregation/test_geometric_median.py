import numpy as np
import pytest
import torch
from tests.aggregation.updates import flat, matrix, points, random_updates, total

from fedlens.aggregation.geometric_median import GeometricMedian, shortening


def one(rule: GeometricMedian, *values: float, weights=None) -> float:
    return total(rule, points(*([value] for value in values)), weights).delta["bias"].item()


def test_one_step_by_hand() -> None:
    # from the mean 3, at distances 3, 2, 5: (0/3 + 1/2 + 8/5) / (1/3 + 1/2 + 1/5)
    assert one(GeometricMedian(iterations=1), 0, 1, 8) == pytest.approx(2.1 / (31 / 30), rel=1e-6)
    # from (0·1 + 3·4) / 4 = 3, the second point itself, whose distance counts as ν: (1/3·0 + 3/1·4) ... with ν = 1
    assert one(GeometricMedian(iterations=1, nu=1.0), 0, 4, weights=[1, 3]) == pytest.approx(12 / (1 / 3 + 3), rel=1e-6)


def test_on_a_line_it_is_the_median_and_more_than_half_of_the_weight_decides() -> None:
    assert one(GeometricMedian(), 0, 1, 10) == pytest.approx(1, abs=1e-3)
    assert one(GeometricMedian(), 0, 1, 10, weights=[1, 1, 3]) == pytest.approx(10, abs=1e-3)
    assert one(GeometricMedian(weighted=False), 0, 1, 10, weights=[1, 1, 3]) == pytest.approx(1, abs=1e-3)


def test_in_a_right_triangle() -> None:
    # Fermat's point of (0, 0), (1, 0), (0, 1): x = y = (1 − 1/√3) / 2
    found = total(GeometricMedian(), points((0, 0), (1, 0), (0, 1))).delta["bias"]
    assert found.tolist() == pytest.approx([(1 - 3**-0.5) / 2] * 2, abs=1e-5)


def test_pulls_balance_at_the_minimum() -> None:
    updates, weights = random_updates(8), [3.0, 1.0, 2.0, 2.0, 1.0, 4.0, 1.0, 2.0]
    found = flat(total(GeometricMedian(), updates, weights).delta)
    away = matrix(updates) - found
    pulls = away / np.linalg.norm(away, axis=1, keepdims=True) * np.array(weights)[:, None] / sum(weights)
    assert np.linalg.norm(pulls.sum(0)) < 1e-4


def test_it_rests_near_the_honest_however_far_the_others_are() -> None:
    honest = random_updates(9)
    near = flat(total(GeometricMedian(), honest).delta)
    for distance in (1e3, 1e9, 1e15, 1e18, 1e30):
        wild = [{name: value * distance for name, value in update.items()} for update in random_updates(2, seed=3)]
        found = flat(total(GeometricMedian(), [*honest, *wild]).delta)
        assert np.linalg.norm(found - near) < 0.5 * np.linalg.norm(matrix(honest) - near, axis=1).max()


def test_lengths_of_the_same_order_are_left_as_they_are() -> None:
    """A client that never trained sends zeros; nobody else is measured by it."""
    alphas = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)
    assert shortening(torch.tensor([0.0, 1e-9, 1.0], dtype=torch.float64), alphas).tolist() == [1, 1, 1]
    assert shortening(torch.tensor([0.0, 0.0, 0.0], dtype=torch.float64), alphas).tolist() == [1, 1, 1]
    assert shortening(torch.tensor([0.0, 1e12, 1.0], dtype=torch.float64), alphas).tolist() == [1, 1e-6, 1]


def test_running_statistics_are_mixed_in_the_same_shares() -> None:
    updates = [{"bias": torch.tensor([x]), "running_var": torch.tensor([10 * x + 1])} for x in (0.0, 1.0, 8.0)]
    found = total(GeometricMedian(iterations=1), updates).delta
    assert found["running_var"].item() == pytest.approx(10 * found["bias"].item() + 1, rel=1e-5)
