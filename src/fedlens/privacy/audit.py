"""A lower bound of ε from what a mechanism gave: how well can two worlds be told apart that differ in one canary?

If a mechanism is (ε, δ)-differentially private, no test between the worlds has rates of false positives p and false
negatives n with p + e^ε n < 1 − δ or n + e^ε p < 1 − δ (Kairouz, Oh, Viswanath 2015,
https://arxiv.org/abs/1311.0776). So errors that were counted bound ε from below (Jagielski, Ullman, Oprea
2020, https://arxiv.org/abs/2006.07709; Nasr, Song, Thakurta, Papernot, Carlini 2021,
https://arxiv.org/abs/2101.04535). What is done here with N draws of each world:

1. The first half of the draws chooses the test: a direction in the released numbers (Fisher's linear discriminant) and
   a threshold.
2. On the second half its errors are counted, and both rates get the upper limits of Clopper and Pearson 1934. Choice
   and count are of different draws, so the limits hold as they are.
3. That is done twice: at the run's own δ, and at the δ of `DELTAS` where the claim looks weakest in the first half. An
   accountant claims an ε at every δ, and the many errors at a large δ are counted more exactly than the few at a small
   one: halved noise shows with 10⁴ draws, as in Nasr et al. 2023, https://arxiv.org/abs/2302.07956, but without
   assuming what the mechanism is.

All four limits hold together with the probability `CONFIDENCE`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedlens.privacy.accounting import Release

Array = np.ndarray[Any, np.dtype[np.float64]]

CONFIDENCE = 0.95
LIMITS = 4
"""Two rates at two δ."""

DELTAS = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.2, 0.3)
"""At which a claim is tried beside its own δ."""

SIMULATED, SURE = 5, 4
"""Simulated audits in `would_show`, and how many of them have to contradict the claim."""

THRESHOLDS = 1000
"""How many are tried, evenly among the draws."""


@dataclass(frozen=True)
class Finding:
    """At `delta` the mechanism's ε is `bound` at least, and it was claimed to be `claimed` at most; None: no claim."""

    delta: float
    bound: float
    claimed: float | None

    @property
    def contradicts(self) -> bool:
        return self.claimed is not None and self.bound > self.claimed


@dataclass(frozen=True)
class Examination:
    """own: at the run's δ. sharpest: where the claim looked weakest. absent, present: (N,) the released numbers of all
    draws along the chosen direction. threshold: from there on the canary is taken to be present, at the run's δ."""

    own: Finding
    sharpest: Finding
    absent: Array
    present: Array
    threshold: float

    @property
    def contradicts(self) -> bool:
        return self.own.contradicts or self.sharpest.contradicts


def limit(errors: Array, draws: int) -> Array:
    """The upper limit of a rate of which `errors` were counted in so many draws (Clopper and Pearson 1934)."""
    from scipy.special import betaincinv

    miss = (1 - CONFIDENCE) / LIMITS
    return np.where(errors < draws, betaincinv(errors + 1, np.maximum(draws - errors, 1), 1 - miss), 1.0)


def bound(positives: Array, negatives: Array, delta: float) -> Array:
    """The smallest ε ≥ 0 at which a test may have these rates of false positives and false negatives."""
    ratios = [np.maximum(1 - delta - one, 1e-300) / other for one, other in _both_ways(positives, negatives)]
    return np.asarray(np.log(np.maximum(np.maximum(*ratios), 1.0)))


def most(draws: int, delta: float) -> float:
    """The largest bound that so many draws of each world can give: that of a test without errors."""
    rate = limit(np.zeros(1), draws - draws // 2)
    return float(bound(rate, rate, delta)[0])


def draws_to_show(epsilon: float, delta: float) -> int:
    """How many draws of each world a test without errors needs to show that much or more."""
    rate = (1 - delta) / (math.exp(min(epsilon, 700)) + 1)  # where `bound` of two equal rates is epsilon
    return math.ceil(2 * math.log((1 - CONFIDENCE) / LIMITS) / math.log1p(-rate))


def examine(absent: Array, present: Array, delta: float, claimed: Mapping[float, float]) -> Examination:
    """The lower bounds from N draws of the world without and with the canary: (N, R) released numbers of each draw.
    `delta`: the run's own. `claimed`: δ → the claimed ε, `delta` among them; empty where nothing is claimed."""
    direction = _direction(_first(absent), _first(present))
    scores = absent @ direction, present @ direction
    thresholds = np.quantile(np.concatenate([_first(one) for one in scores]), np.linspace(0, 1, THRESHOLDS))
    rates = _limits(_first(scores[0]), _first(scores[1]), thresholds)
    chosen: dict[float, tuple[float, float]] = {}  # δ → by how much the bound exceeds the claim, threshold
    for one in {delta: 0.0, **claimed}:
        found = bound(*rates, one)
        best = np.flatnonzero(
            found == found.max()
        )  # many where the worlds lie apart: farthest from both is their middle
        chosen[one] = float(found.max()) - claimed.get(one, 0.0), float(thresholds[best[len(best) // 2]])
    weakest = max(chosen, key=lambda one: chosen[one][0])

    def finding(at: float) -> Finding:
        again = _limits(_second(scores[0]), _second(scores[1]), np.array([chosen[at][1]]))
        return Finding(at, float(bound(*again, at)[0]), claimed.get(at))

    return Examination(finding(delta), finding(weakest), *scores, chosen[delta][1])


def would_show(releases: Mapping[Release, int], draws: int, delta: float, claimed: Mapping[float, float]) -> bool:
    """Whether so many draws would contradict the claim if there were half the noise in every one of these releases, of
    which an audit sees the sum: simulated with numbers drawn directly."""
    found = 0
    for seed in range(SIMULATED):
        generator = np.random.default_rng(seed)
        worlds = np.zeros((2, draws, 1))
        for release, count in releases.items():
            worlds += generator.normal(0, release.noise_multiplier / 2 * math.sqrt(count), worlds.shape)
            worlds[1] += generator.binomial(count, release.sampling_probability, worlds[1].shape)
        found += examine(worlds[0], worlds[1], delta, claimed).contradicts
    return found >= SURE


def _both_ways(one: Array, other: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    return (one, other), (other, one)


def _direction(absent: Array, present: Array) -> Array:
    """(R,) Σ⁻¹ (mean present − mean absent), Σ being the mean covariance within the worlds: it weighs the rounds, and
    subtracts from one what another one tells of its noise."""
    spread = (np.cov(absent, rowvar=False) + np.cov(present, rowvar=False)).reshape(2 * absent.shape[1:]) / 2
    size = float(np.mean(absent**2) + np.mean(present**2))
    spread += np.eye(len(spread)) * max(1e-12 * size, 1e-300)  # without noise it is singular
    return np.asarray(np.linalg.solve(spread, present.mean(0) - absent.mean(0)))


def _limits(absent: Array, present: Array, thresholds: Array) -> tuple[Array, Array]:
    """Upper limits of the rates of false positives and false negatives, at each of the thresholds."""
    positives = len(absent) - np.searchsorted(np.sort(absent), thresholds)
    negatives = np.searchsorted(np.sort(present), thresholds)
    return limit(positives.astype(float), len(absent)), limit(negatives.astype(float), len(present))


def _first(draws: Array) -> Array:
    return draws[: len(draws) // 2]


def _second(draws: Array) -> Array:
    return draws[len(draws) // 2 :]
