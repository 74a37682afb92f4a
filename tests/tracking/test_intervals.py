"""Confidence intervals against published values and against scipy, which the package itself does not use."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest, t

from fedlens.tracking.intervals import of_mean, student_t, wilson


@pytest.mark.parametrize(
    ("right", "images", "low", "high"),
    [
        # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_as_published(right: int, images: int, low: float, high: float) -> None:
    assert wilson(right / images, images) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("right", "images"), [(3, 3), (8, 10), (500, 1000), (0, 1)])
def test_wilsons_interval_as_in_scipy(right: int, images: int) -> None:
    expected = binomtest(right, images).proportion_ci(0.95, method="wilson")
    assert wilson(right / images, images) == pytest.approx((expected.low, expected.high))


def test_three_images_say_little() -> None:
    low, high = wilson(1.0, 3) or (0, 0)
    assert (low < 0.45, high) == (True, 1.0)
    assert wilson(0.0, 0) is None


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 30, 1000])
def test_the_quantile_of_students_t(freedom: int) -> None:
    assert student_t(freedom) == pytest.approx(t.ppf(0.975, freedom), rel=2e-3)


def test_the_interval_of_a_mean_over_clients() -> None:
    """0.5, 0.6, 0.7: mean 0.6, standard deviation 0.1, t(2) = 4.3027: 0.6 ± 4.3027 · 0.1 / √3."""
    assert of_mean([0.5, 0.6, 0.7]) == pytest.approx((0.6 - 0.24842, 0.6 + 0.24842), abs=1e-5)
    assert of_mean([0.9, 1.0, 1.0]) == pytest.approx((0.96667 - 0.14342, 1.0), abs=1e-4), "cut off at 1"
    assert of_mean([0.5]) is None
    assert of_mean([0.5, 0.6]) is None, "too few"
    assert of_mean([1.0] * 4) is None, "equal by accident, not by certainty"
    assert of_mean([1 / 3] * 3) is None
