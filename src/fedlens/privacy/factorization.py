"""Noise that is correlated over rounds: buffered linear Toeplitz factorisation (BLT; Dvijotham, McMahan, Pillutla,
Steinke, Thakurta 2024, https://arxiv.org/abs/2404.16706; with several participations of a client: McMahan, Xu, Zhang
2024, https://arxiv.org/abs/2408.08868).

The noise of the rounds is the rows of C⁻¹z, z being independent Gaussian noise: what one round adds, later ones partly
take back, so the sums over rounds, which the model is made of, hold less noise than with independent noise at the same
ε. C is lower triangular and Toeplitz, its first column

    1, Σ ω, Σ ω θ, Σ ω θ², …      (sums over the buffers; ω: scales, θ: decays)

so each row of C⁻¹z needs only one tensor of the model's size for each buffer. As a filter, C is N(x) / D(x) with
D = Π (1 − θ x) and N = D + Σ ω x Π' (1 − θ x), Π' leaving out the buffer's own factor: all that is computed here is
the answer of that filter, or of its inverse, to a sequence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

MOST_BUFFERS = 3
LEAST_GAIN = 0.01
"""One more buffer must lower the error by this share."""


@dataclass(frozen=True)
class BufferedToeplitz:
    """The matrix C. decays: θ, each in (0, 1). scales: ω, not negative, at most 1 together; so the first column never
    rises, and is never negative. No buffers: C is the identity."""

    decays: tuple[float, ...] = ()
    scales: tuple[float, ...] = ()

    def coefficients(self, rounds: int) -> Array:
        """The first column of C."""
        return self._filtered(_pulses(rounds, rounds))

    def sensitivities(self, rounds: int, separation: int) -> Array:
        """‖C u‖ after each round, u marking the rounds in which one client takes part, at least `separation` apart.

        The largest norm is that of 0, separation, 2 · separation, … (Kalinin, Lampert 2024,
        https://arxiv.org/abs/2405.13763, theorem 2: it holds for a first column that is not negative and never rises).
        """
        return np.sqrt(np.cumsum(self._filtered(_pulses(rounds, separation)) ** 2))

    def errors(self, rounds: int) -> Array:
        """The standard deviation of Σ C⁻¹z over the first 1, 2, … rounds, z having 1."""
        return np.sqrt(np.cumsum(self._unfiltered(np.ones(rounds)) ** 2))

    def loss(self, rounds: int, separation: int) -> float:
        """Root of the mean squared error of the sums over all rounds, at noise multiplier 1."""
        errors = self.errors(rounds)
        return float(self.sensitivities(rounds, separation)[-1] * np.sqrt(np.mean(errors**2)))

    def _filtered(self, sequence: Array) -> Array:
        from scipy.signal import lfilter

        return np.asarray(lfilter(*self._polynomials(), sequence))

    def _unfiltered(self, sequence: Array) -> Array:
        from scipy.signal import lfilter

        return np.asarray(lfilter(*reversed(self._polynomials()), sequence))

    def _polynomials(self) -> tuple[Array, Array]:
        """N and D, by rising powers."""
        factors = [np.array([1.0, -decay]) for decay in self.decays]
        denominator = _product(factors)
        numerator = denominator.copy()
        for at, scale in enumerate(self.scales):
            numerator[1:] += scale * _product(factors[:at] + factors[at + 1 :])
        return numerator, denominator


@lru_cache(maxsize=64)
def best(rounds: int, separation: int) -> BufferedToeplitz:
    """The matrix with the smallest loss. A buffer is added as long as it lowers the loss by `LEAST_GAIN`."""
    chosen = BufferedToeplitz()
    for buffers in range(1, MOST_BUFFERS + 1):
        found = _optimised(rounds, separation, buffers)
        if found.loss(rounds, separation) > (1 - LEAST_GAIN) * chosen.loss(rounds, separation):
            break
        chosen = found
    return chosen


def _optimised(rounds: int, separation: int, buffers: int) -> BufferedToeplitz:
    from scipy.optimize import minimize

    # decays whose memories of 1/(1 − θ) rounds lie evenly between 2 and `separation`, on a logarithmic scale
    memories = np.geomspace(2, max(separation, 3), buffers + 2)[1:-1]
    start = np.concatenate([np.log(memories - 1), np.full(buffers, -math.log(2 * buffers))])
    found = minimize(
        lambda point: _at(point).loss(rounds, separation),
        start,
        method="Nelder-Mead",
        options={"maxiter": 400 * buffers, "xatol": 1e-4, "fatol": 1e-8, "adaptive": True},
    )
    return _rounded(_at(found.x))


def _at(point: Array) -> BufferedToeplitz:
    """The matrix at an unconstrained point: logarithms of memory − 1, and of how a scale compares with what all scales
    leave of 1."""
    memories, weights = np.exp(np.clip(np.split(point, 2), -30, 30))
    scales = weights / (1 + np.sum(weights))
    return BufferedToeplitz(tuple((memories / (1 + memories)).tolist()), tuple(scales.tolist()))


def _rounded(exact: BufferedToeplitz) -> BufferedToeplitz:
    """Three digits of each 1 − θ, so that every machine finds the same numbers; scales are rounded down, so
    that they stay below 1 together."""
    return BufferedToeplitz(
        tuple(round(1 - float(f"{1 - decay:.3g}"), 12) for decay in exact.decays),
        tuple(math.floor(1e4 * scale) / 1e4 for scale in exact.scales),
    )


def _pulses(rounds: int, separation: int) -> Array:
    pulses = np.zeros(rounds)
    pulses[::separation] = 1
    return pulses


def _product(factors: Sequence[Array]) -> Array:
    product = np.ones(1)
    for factor in factors:
        product = np.convolve(product, factor)
    return product
