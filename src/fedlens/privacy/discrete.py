"""The discrete Gaussian distribution N_ℤ(0, s²): an integer y with a probability in proportion to exp(−y² / 2s²)
(Canonne, Kamath, Steinke 2020, https://arxiv.org/abs/2004.00010), drawn exactly from the bits of a key stream.

By rejection, many at a time. With t = 2^⌊log₂ s⌋ a proposal is ±(u + t·v), where u is uniform in 0 … t − 1 and v has
the probability 2^−(v+1): both are bits. A coin accepts it with the probability 2^v · exp(−(u + t·v)² / 2s²) / M, where
M is the largest that this can be; so the accepted ones have the right distribution, and they are more than 0.48 of all.

A coin compares a uniform number of 53 bits with a probability in floating point. Where they are closer to each other
than rounding errors can be, the coin is tossed to its end with 128 more bits and 60 decimal digits. Wrong in the
distribution is only |y| ≥ 31 t, which is more than 15 s and has a probability below 2^−160: v ends at 31.
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from fedlens.core.randomness import random_words

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import CipherContext

Integers = NDArray[np.int64]

LARGEST_DEVIATION = 2.0**58
"""32 of these fit into 63 bits."""

DOUBT = 2.0**-42
"""A probability in floating point is nearer than this to the right one: its exponent is a sum of numbers that are below
40 where it matters, each with a relative error of some 2^−52."""

_CHUNK = 1 << 16
"""Proposals at a time: they stay in the processor's cache."""


def discrete_gaussian(stream: CipherContext, size: int, deviation: float) -> Integers:
    """`size` independent numbers of N_ℤ(0, deviation²).

    Raises:
        ValueError: `deviation` is below 1, or above `LARGEST_DEVIATION`.
    """
    if not 1 <= deviation <= LARGEST_DEVIATION:
        raise ValueError(f"a discrete Gaussian of deviation {deviation:g}")
    found, count = np.empty(size, np.int64), 0
    while count < size:
        accepted = _accepted(stream, min(_CHUNK, 2 * (size - count) + 64), deviation)[: size - count]
        found[count : count + len(accepted)] = accepted
        count += len(accepted)
    return found


def _accepted(stream: CipherContext, proposals: int, deviation: float) -> Integers:
    """Those of so many proposals that are accepted."""
    bits = math.frexp(deviation)[1] - 1
    unit, curve = 2.0**bits, 2.0 ** (2 * bits) / (2 * deviation**2)
    place = random_words(stream, proposals, np.uint64)
    levels = _trailing_ones(random_words(stream, proposals, np.uint32))
    sign = place.view(np.int64) >> 63  # −1 or 0
    magnitude = (place & np.uint64(2**bits - 1)).view(np.int64) + (levels.astype(np.int64) << bits)
    exponent = np.multiply(magnitude, 1 / unit)
    np.multiply(exponent, exponent, out=exponent)
    exponent *= -curve
    exponent += levels * math.log(2)
    exponent -= math.log(2) * (top := _top(curve)) - curve * top**2
    probability = torch.from_numpy(exponent).exp_().numpy()  # half the time of NumPy's where there is no AVX-512
    tossed = (random_words(stream, proposals, np.uint64) >> np.uint64(11)) * 2.0**-53
    heads = tossed < probability
    for index in np.flatnonzero(np.abs(tossed - probability) < DOUBT):
        heads[index] = _settled(stream, tossed[index], int(magnitude[index]), int(levels[index]), bits, deviation)
    heads &= (magnitude != 0) | (sign == 0)  # one zero is enough
    accepted = np.flatnonzero(heads)  # `take` of it is quicker than to choose by a mask
    sign, magnitude = sign.take(accepted), magnitude.take(accepted)
    numbers: Integers = (magnitude ^ sign) - sign
    return numbers


def _top(curve: float) -> int:
    """The v at which v · ln 2 − curve · v² is largest: u = 0 is the most likely place of every level."""
    return max(range(5), key=lambda level: level * math.log(2) - curve * level**2)


def _settled(stream: CipherContext, tossed: float, magnitude: int, level: int, bits: int, deviation: float) -> bool:
    """A coin whose first 53 bits are `tossed`, with further bits of it and an exact probability."""
    with localcontext() as context:
        context.prec = 60
        twice, top = 2 * Decimal(deviation) ** 2, _top(2.0 ** (2 * bits) / (2 * deviation**2))
        away = (Decimal(magnitude) ** 2 - (top * Decimal(2) ** bits) ** 2) / twice
        probability = ((level - top) * Decimal(2).ln() - away).exp()
        further = int.from_bytes(stream.update(bytes(16)), "little")
        return Decimal(tossed) + further * Decimal(2) ** -181 < probability


def _trailing_ones(words: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """How many of the lowest bits of each word are ones before the first zero."""
    ones: NDArray[np.uint8] = np.bitwise_count(words ^ (words + np.uint32(1))) - np.uint8(1)
    return ones
