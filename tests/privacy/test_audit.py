"""The mathematics of an audit, against values computed by hand and against mechanisms whose ε is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedlens.privacy.accounting import Release, epsilon
from fedlens.privacy.audit import CONFIDENCE, DELTAS, bound, draws_to_show, examine, limit, most, would_show

MISS = (1 - CONFIDENCE) / 4


def test_limits_are_those_of_clopper_and_pearson():
    """No error in n draws has the probability (1 − p)ⁿ, n errors pⁿ; both limits are closed forms. 1 of 2: a rate of p
    gives at most one error with the probability 1 − p²."""
    none, one, all_of_them = limit(np.array([0.0, 1.0, 2.0]), 2)
    assert none == pytest.approx(1 - MISS**0.5)
    assert one == pytest.approx((1 - MISS) ** 0.5)
    assert all_of_them == 1.0


@pytest.mark.parametrize(
    ("positives", "negatives", "delta", "expected"),
    [
        (0.1, 0.6, 0.0, math.log(4)),  # (1 − 0.6) / 0.1
        (0.6, 0.1, 0.0, math.log(4)),  # a test for the other world
        (0.1, 0.6, 0.2, math.log(2)),  # (1 − 0.2 − 0.6) / 0.1
        (0.5, 0.5, 0.0, 0.0),
        (0.7, 0.7, 0.0, 0.0),  # worse than guessing shows nothing
        (1.0, 0.2, 0.5, 0.0),
    ],
)
def test_the_bound_of_two_rates(positives, negatives, delta, expected):
    assert float(bound(np.array([positives]), np.array([negatives]), delta)[0]) == pytest.approx(expected, abs=1e-12)


def test_how_many_draws_can_show_something():
    least = draws_to_show(0.0, 1e-5)
    assert least == 13
    assert most(least, 1e-5) > 0
    assert most(least - 1, 1e-5) == 0
    assert most(draws_to_show(4.0, 1e-5) + 1, 1e-5) >= 4.0 > most(draws_to_show(4.0, 1e-5) - 2, 1e-5)


def claims(release: Release, delta: float = 1e-5) -> dict[float, float]:
    return {one: epsilon({release: 1}, one).value for one in (delta, *DELTAS)}


def worlds(sigma: float, draws: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal([[[0.0]], [[1.0]]], sigma, (2, draws, 1))


@pytest.mark.parametrize("seed", range(5))
def test_a_gaussian_mechanism_shows_less_than_it_claims_and_half_the_noise_more(seed):
    claimed = claims(Release(1.0))
    right = examine(*worlds(1.0, 10_000, seed), 1e-5, claimed)
    assert not right.contradicts
    assert 1.2 < right.own.bound < right.own.claimed
    wrong = examine(*worlds(0.5, 10_000, seed), 1e-5, claimed)
    assert wrong.sharpest.contradicts
    assert wrong.sharpest.bound < epsilon({Release(0.5): 1}, wrong.sharpest.delta).value


def test_it_hardly_ever_accuses_a_mechanism_that_is_as_claimed():
    """A canary that is exactly the worst case, whose limits fail in 5 % of audits at most."""
    claimed = claims(Release(0.7))
    assert sum(examine(*worlds(0.7, 400, seed), 1e-5, claimed).contradicts for seed in range(100)) <= 5


def test_noise_that_a_later_round_takes_back_is_found():
    """Round 2 gives what round 1 added: the sum of both has no noise."""
    absent = np.random.default_rng(0).normal(0, 1, (1000, 1)) * [[1.0, -1.0]]
    present = absent[::-1] + np.array([1.0, 0.0])
    found = examine(absent, present, 1e-5, claims(Release(1.0)))
    assert found.own.bound > 0.99 * most(1000, 1e-5)
    assert found.contradicts


def test_two_worlds_that_do_not_differ_show_nothing():
    assert examine(np.zeros((100, 2)), np.zeros((100, 2)), 1e-5, {}).own.bound == 0


def test_what_half_the_noise_would_show():
    assert would_show({Release(0.7): 1}, 400, 1e-5, claims(Release(0.7)))
    assert not would_show({Release(3.0, 0.1): 1}, 400, 1e-5, claims(Release(3.0, 0.1)))
