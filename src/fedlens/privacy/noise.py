"""Gaussian noise, and coins, that nobody can foretell or compute again.

Its bits are a key stream of AES-256 in counter mode, with a key from the operating system. The run's seed plays no
part: whoever knows that could compute the noise, and subtract it.

In floating point the values that a Gaussian sampler can give have gaps, by which noise can be told from data (Mironov
2012, https://doi.org/10.1145/2382196.2382264). So each number is the sum of four float64 samples, divided by 2, as
Holohan and Braghin 2021, https://arxiv.org/abs/2107.10138, propose: too many sums to search. It is added to the sum of
updates in float64.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fedlens.core.randomness import key_stream, random_words
from fedlens.core.types import State

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import CipherContext

Normal = Callable[[Tensor], Tensor]
"""A tensor, of which only the shape counts → independent standard normal numbers of that shape, float64."""

Coins = Callable[[int, float], Tensor]
"""(how many, probability of heads) → independent coins, (N,) bool."""

_SAMPLES = 4
"""Box–Muller samples in one number; they come in pairs, each from two words of 64 bits."""

_CHUNK = 1 << 16
"""Numbers made at a time: their words stay in the processor's cache."""


def insecure_key(seed: int, *place: str | int) -> bytes:
    """32 bytes that everybody who knows `seed` can compute: for experiments that are to be repeated."""
    return hashlib.blake2b("\0".join(["insecure", str(seed), *map(str, place)]).encode(), digest_size=32).digest()


def normal_from(key: bytes) -> Normal:
    """Standard normal numbers from the key stream of `key`."""
    stream = key_stream(key)

    def normal(like: Tensor) -> Tensor:
        numbers = torch.empty(like.numel(), dtype=torch.float64)
        for chunk in numbers.split(_CHUNK):
            chunk.copy_(_numbers(stream, len(chunk)))
        return numbers.reshape(like.shape)

    return normal


def normal_like(forms: State, normal: Normal) -> State:
    """Standard normal numbers with the names and shapes of `forms`, all drawn at once."""
    sizes = [form.numel() for form in forms.values()]
    parts = normal(torch.empty(sum(sizes))).split(sizes)
    return {name: part.reshape(form.shape) for (name, form), part in zip(forms.items(), parts, strict=True)}


def coins_from(key: bytes) -> Coins:
    """Coins from the key stream of `key`."""
    stream = key_stream(key)
    return lambda size, probability: _uniform(stream, size) < probability


def _numbers(stream: CipherContext, size: int) -> Tensor:
    """(size,) float64. Box and Muller 1958: √(−2 ln u₁) · (cos 2πu₂, sin 2πu₂), u₁ in (0, 1], u₂ in [0, 1)."""
    first, second = _uniform(stream, _SAMPLES * size).reshape(2, _SAMPLES // 2, size)
    radius = first.neg_().add_(1).log_().mul_(-2).sqrt_()
    angle = second.mul_(2 * math.pi)
    numbers: Tensor = radius.mul_(angle.cos().add_(angle.sin())).sum(0)
    return numbers.div_(math.sqrt(_SAMPLES))


def _uniform(stream: CipherContext, size: int) -> Tensor:
    """(size,) float64 in [0, 1)."""
    bits = torch.from_numpy(random_words(stream, size, np.int64))
    return bits.bitwise_and_((1 << 53) - 1).double().mul_(2.0**-53)
