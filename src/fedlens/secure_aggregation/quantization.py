"""Fixed-point numbers modulo 2³² or 2⁶⁴, so that masks hide them perfectly and sums are exact.

A number x of at most `bound` becomes the integer nearest to x·2^exponent, negative ones as the modulus has them. The
exponent is the largest one with which a cohort's sum cannot overflow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from fedlens.core.types import State
from fedlens.errors import ConfigError, ProtocolError
from fedlens.secure_aggregation.masks import Words

Bits = Literal[32, 64]

COARSEST = 1e-4
"""The largest step of a coordinate of the heaviest client's update. Coordinates of useful updates are larger."""

TAIL = 32
"""Standard deviations of the noise for which there is room."""

LARGEST: dict[Bits, float] = {32: 4.0, 64: 2.0**16}
"""The largest coordinate of an update that is expected, unless another one is configured."""


@dataclass(frozen=True)
class Quantization:
    """bits  of the modulus
    exponent  a number is multiplied by 2^exponent and rounded to the nearest integer
    weight    the largest weight of an update
    bound     the largest number that is sent: of a weighted update, of what a strategy adds to it, and of a weight
    """

    bits: Bits
    exponent: int
    weight: float
    bound: float

    @classmethod
    def of(cls, bits: Bits, largest: float, weight: float, cohort: int) -> Quantization:
        """For updates of `cohort` clients, with coordinates up to `largest` and weights up to `weight`.

        Raises:
            ConfigError: the modulus is too small for that.
        """
        bound = largest * weight
        exponent = _exponent(bits, bound, cohort)
        step = 2.0**-exponent / weight
        if step > COARSEST:
            raise _too_coarse(bits, cohort, step, f"a smaller privacy.secure_largest (now {largest:g})")
        return cls(bits, exponent, weight, bound)

    @classmethod
    def with_noise(cls, bits: Bits, numbers: Sequence[tuple[float, float]], cohort: int) -> Quantization:
        """For updates of weight 1 of `cohort` clients, each of which adds noise. numbers: of each kind of them, how
        large they are at most, and the standard deviation of the noise that is added to them. A sum overflows where its
        noise is `TAIL` standard deviations from 0, with a probability below 2^−700.

        Raises:
            ConfigError: the modulus is too small for that.
        """
        bound = max(1.0, *(largest for largest, _ in numbers))
        spread = max(spread for _, spread in numbers)
        exponent = _exponent(bits, bound + TAIL * spread / math.sqrt(cohort), cohort)
        step, finest = 2.0**-exponent, min(min(largest, spread or largest) for largest, spread in numbers)
        if step > min(COARSEST * finest, 1.0):  # a weight is 1
            raise _too_coarse(bits, cohort, step, "a larger privacy.clip, less noise")
        return cls(bits, exponent, 1.0, bound)

    @property
    def dtype(self) -> torch.dtype:
        """Of the tensors that travel."""
        return torch.int32 if self.bits == 32 else torch.int64

    def quantized(self, state: State) -> Words:
        """All numbers of `state` in one vector, in the order of its names.

        Raises:
            ProtocolError: a number is larger than the bound.
        """
        return np.concatenate([self._words(state[name]) for name in sorted(state)])

    def sums(self, vector: Words, shapes: State) -> dict[str, Tensor]:
        """The inverse of `quantized`, in float64, for a sum of vectors. `shapes`: tensors of the same names and
        shapes."""
        signed = torch.from_numpy(vector.view(np.int32 if self.bits == 32 else np.int64))
        values = signed.double().mul_(2.0**-self.exponent)
        return unpacked(values, shapes)

    def _words(self, value: Tensor) -> Words:
        numbers = value.detach().cpu().double().reshape(-1)
        largest = float(numbers.abs().max()) if len(numbers) else 0.0
        if not largest <= self.bound:  # which number, and how large, stays with the client
            raise ProtocolError(
                "its weighted update has a number that is larger than the round was set up for; use a larger "
                "privacy.secure_largest"
            )
        integers = (numbers * 2.0**self.exponent).round_().long().numpy()
        return cast(Words, integers.astype(np.int32).view(np.uint32) if self.bits == 32 else integers.view(np.uint64))


def _exponent(bits: Bits, largest: float, cohort: int) -> int:
    """The largest one with which numbers up to `largest` of so many clients add up to less than half the modulus."""
    room = Fraction(2 ** (bits - 1) - 1, cohort) - 1  # for one client, and for its rounding
    exponent = math.floor(math.log2(max(float(room), 1.0) / largest))
    while Fraction(largest) * Fraction(2) ** exponent > room > 0:  # a logarithm is not exact
        exponent -= 1
    return exponent


def _too_coarse(bits: Bits, cohort: int, step: float, way_out: str) -> ConfigError:
    return ConfigError(
        f"privacy.secure_bits={bits}: so that the sum of {cohort:,} clients' updates fits, numbers would be rounded to "
        f"steps of {step:.2g}; use privacy.secure_bits=64, {way_out}, or fewer clients in a round "
        "(federated.fraction_fit)",
        code="incompatible",
        key="privacy.secure_bits",
    )


def packed(state: State, bits: Bits) -> Words:
    """The words of travelled tensors in one vector, in the order of their names; a copy."""
    flat = np.concatenate([state[name].reshape(-1).numpy() for name in sorted(state)])
    return cast(Words, flat.view(np.uint32 if bits == 32 else np.uint64))


def unpacked(vector: Tensor, shapes: State) -> dict[str, Tensor]:
    """Parts of `vector` in the shapes of `shapes`, in the order of the names."""
    parts, start = {}, 0
    for name in sorted(shapes):
        stop = start + shapes[name].numel()
        parts[name] = vector[start:stop].view(shapes[name].shape)
        start = stop
    return parts


def travelling(vector: Words, shapes: State) -> dict[str, Tensor]:
    """`vector` as tensors that travel."""
    signed = torch.from_numpy(vector.view(np.int32 if vector.itemsize == 4 else np.int64))
    return unpacked(signed, shapes)
