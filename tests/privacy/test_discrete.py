"""The discrete Gaussian: its probabilities, its moments, and coins that are tossed to their end."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fedlens.core.randomness import key_stream
from fedlens.privacy import discrete
from fedlens.privacy.discrete import LARGEST_DEVIATION, discrete_gaussian
from fedlens.privacy.noise import insecure_key


def drawn(deviation: float, size: int, place: int = 0) -> np.ndarray:
    return discrete_gaussian(key_stream(insecure_key(7, place)), size, deviation)


def probabilities(deviation: float, most: int) -> np.ndarray:
    """Of −most … most, in closed form: Definition 1 of Canonne, Kamath and Steinke 2020."""
    weights = np.exp(-(np.arange(-most, most + 1) ** 2) / (2 * deviation**2))
    return weights / weights.sum()


@pytest.mark.parametrize("doubt", [discrete.DOUBT, 0.02])
@pytest.mark.parametrize("deviation", [1.0, 1.9, 2.5, 8.0])
def test_probabilities_are_those_of_the_closed_form(monkeypatch, deviation: float, doubt: float) -> None:
    """Also where many coins are in doubt, and tossed to their end."""
    monkeypatch.setattr(discrete, "DOUBT", doubt)
    size, most = (200_000 if doubt < 0.01 else 20_000), int(6 * deviation)
    found = drawn(deviation, size)
    expected = size * probabilities(deviation, most)
    often = expected >= 10
    counts = np.bincount(found.clip(-most, most) + most, minlength=2 * most + 1)
    kept = np.append(counts[often], counts[~often].sum()), np.append(expected[often], expected[~often].sum())
    assert stats.chisquare(*kept).pvalue > 1e-3


@pytest.mark.parametrize("deviation", [1e3, 1.7e6, 1.3 * 2.0**41, LARGEST_DEVIATION])
def test_large_numbers_are_as_good_as_normal_ones(deviation: float) -> None:
    found = drawn(deviation, 100_000) / deviation
    assert stats.kstest(found, "norm").pvalue > 1e-3
    assert abs(found.mean()) < 4 / 100_000**0.5
    assert found.var() == pytest.approx(1, abs=4 * (2 / 100_000) ** 0.5)
    assert np.abs(found).max() > 3.8, "tails are not cut: one in 14,000 is beyond 3.8"


def test_every_integer_can_be_had() -> None:
    """No gaps in the lowest bits, as floating point would have them at this size."""
    found = drawn(1.3 * 2.0**53, 100_000)
    assert stats.chisquare(np.bincount(found % 8, minlength=8)).pvalue > 1e-3


def test_two_keys_never_give_the_same_and_one_key_always_does() -> None:
    one, again, other = drawn(1e9, 10_000), drawn(1e9, 10_000), drawn(1e9, 10_000, place=1)
    assert (one == again).all()
    assert not (one == other).any()
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.04


@pytest.mark.parametrize("deviation", [0.9, 0.0, float("nan"), 2.1 * LARGEST_DEVIATION])
def test_what_it_cannot_draw_is_refused(deviation: float) -> None:
    with pytest.raises(ValueError, match="discrete Gaussian of deviation"):
        drawn(deviation, 1)


def test_the_size_may_be_anything() -> None:
    assert [len(drawn(5.0, size)) for size in (0, 1, 70_000)] == [0, 1, 70_000]
