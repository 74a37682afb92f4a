"""Clipping of whole updates: the bound on what one client can change, on which every claim of privacy rests."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from fedlens.core.types import State

_BELOW = 1 - 1e-6
"""A clipped update is made shorter than the clip by this factor, so that rounding does not make it longer."""


def exact_norm(tensors: Iterable[Tensor]) -> float:
    """√Σ x² over all elements of all `tensors`, computed in float64: numbers that float32 cannot square count, too."""
    own = list(tensors)
    return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(own, dtype=torch.float64)))) if own else 0.0


def clip_factor(norm: float, clip: float) -> float:
    """What an update of that norm is multiplied with: min(1, clip / norm), as in Algorithm 1 of McMahan et al. 2018,
    https://arxiv.org/abs/1710.06963. An update whose norm is not finite counts nothing: 0."""
    if not math.isfinite(norm):
        return 0.0
    return 1.0 if norm <= clip else clip / norm * _BELOW


def clipped(state: State, clip: float) -> State:
    """`state` with a joint L2 norm of at most `clip`; the same tensors where it is not longer."""
    factor = clip_factor(exact_norm(state.values()), clip)
    if factor == 1:
        return state
    if factor == 0:  # 0 · NaN is NaN
        return {name: torch.zeros_like(value) for name, value in state.items()}
    return {name: (value.double() * factor).to(value.dtype) for name, value in state.items()}
