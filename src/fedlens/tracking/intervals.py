"""95 % confidence intervals of accuracies.

one model     Wilson's score interval over images: Wilson 1927, "Probable inference, the law of succession, and
              statistical inference"; the form in Brown, Cai and DasGupta 2001, "Interval estimation for a
              binomial proportion", section 3.1.1, https://doi.org/10.1214/ss/1009213286
mean          Student's t interval over clients: the uncertainty of the mean if other clients of the same kind were
              sampled
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev

CONFIDENCE = 0.95
_Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)

FEWEST = 3
"""Minimum number of clients for an interval of their mean: for two, Student's t gives 12.7 standard errors."""

Interval = tuple[float, float]
"""(low, high), both in 0–1."""


def wilson(accuracy: float, images: int) -> Interval | None:
    """The interval of an accuracy on `images` independent images; None without images."""
    if not images:
        return None
    spread = _Z**2 / images
    center = (accuracy + spread / 2) / (1 + spread)
    half = math.sqrt(accuracy * (1 - accuracy) * spread + spread**2 / 4) / (1 + spread)
    return max(center - half, 0.0), min(center + half, 1.0)


def of_mean(accuracies: Sequence[float]) -> Interval | None:
    """The interval of the mean over clients, clipped to [0, 1]. None for fewer than `FEWEST` clients, and if all values
    are equal: with few images this can happen by chance, and an interval of zero width would suggest certainty."""
    count = len(accuracies)
    if count < FEWEST or not (deviation := stdev(accuracies)):
        return None
    mean, half = fmean(accuracies), student_t(count - 1) * deviation / math.sqrt(count)
    return max(mean - half, 0.0), min(mean + half, 1.0)


def student_t(freedom: int) -> float:
    """The 97.5 % quantile of Student's t distribution, within 0.2 %.

    Exact for 1 and 2 degrees of freedom; else Abramowitz and Stegun 1964, "Handbook of mathematical functions",
    eq. 26.7.5.
    """
    tail = (1 - CONFIDENCE) / 2
    if freedom == 1:
        return 1 / math.tan(math.pi * tail)
    if freedom == 2:
        return (1 - 2 * tail) / math.sqrt(2 * tail * (1 - tail))
    z = float(_Z)
    terms: tuple[float, ...] = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / freedom**power for power, term in enumerate(terms, start=1))
