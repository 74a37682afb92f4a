import numpy as np
import pytest
from tests.aggregation.updates import flat, matrix, points, random_updates, total

from fedlens.aggregation.trimmed_mean import TrimmedMean


def test_by_hand() -> None:
    updates = points((1, -100), (2, 1), (3, 2), (1000, 4))
    assert total(TrimmedMean(beta=0.25), updates).delta["bias"].tolist() == [2.5, 1.5]


@pytest.mark.parametrize(
    ("count", "beta", "cut"), [(10, 0.2, 2), (9, 0.1, 1), (20, 0.45, 9), (100, 0.07, 7), (5, 0, 0)]
)
def test_as_a_sort_says(count: int, beta: float, cut: int) -> None:
    updates = random_updates(count)
    expected = np.sort(matrix(updates), axis=0)[cut : count - cut].mean(0)
    assert TrimmedMean(beta=beta).trimmed(count) == cut
    assert np.allclose(flat(total(TrimmedMean(beta=beta), updates).delta), expected, atol=1e-6)


def test_a_cohort_of_which_nothing_would_be_left() -> None:
    assert TrimmedMean(beta=0.4).incompatibility(5) is None
    assert "beta = 0.4: of 3 results" in str(TrimmedMean(beta=0.4).incompatibility(3))
