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

import torch
from torch import Tensor

from fedlens.core.randomness import key_stream

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import CipherContext

Normal = Callable[[Tensor], Tensor]
"""A tensor, of which only the shape counts → independent standard normal numbers of that shape, float64."""

Coins = Callable[[int, float], Tensor]
"""(how many, probability of heads) → independent coins, (N,) bool."""

_SAMPLES = 4
"""Box–Muller samples in one number; they come in pairs, each from two words of 64 bits."""

_CHUNK = 1 << 20
"""Numbers made at a time, which bounds the memory."""


def insecure_key(seed: int, *place: str | int) -> bytes:
    """32 bytes that everybody who knows `seed` can compute: for experiments that are to be repeated."""
    return hashlib.blake2b("\0".join(["insecure", str(seed), *map(str, place)]).encode(), digest_size=32).digest()


def normal_from(key: bytes) -> Normal:
    """Standard normal numbers from the key stream of `key`."""
    stream = key_stream(key)

    def normal(like: Tensor) -> Tensor:
        size = like.numel()
        parts = [_numbers(stream, min(_CHUNK, size - start)) for start in range(0, size, _CHUNK)]
        return torch.cat(parts).reshape(like.shape) if parts else torch.zeros(like.shape, dtype=torch.float64)

    return normal


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
    bits = stream.update(bytes(8 * size))
    return torch.frombuffer(bytearray(bits), dtype=torch.int64).bitwise_and_((1 << 53) - 1).double().mul_(2.0**-53)
