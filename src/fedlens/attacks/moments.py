"""Mean and deviation of a stream of updates in one pass: Welford 1962, "Note on a method for calculating corrected sums
of squares and products". It avoids the cancellation errors of Σ x² − (Σ x)² / n."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedlens.core.types import State


@dataclass(frozen=True)
class Moments:
    """Coordinate-wise mean and (population) standard deviation of several updates."""

    mean: State
    deviation: State


class RunningMoments:
    """Needs the memory of two models, whatever the number of updates."""

    def __init__(self) -> None:
        self._count = 0
        self._mean: dict[str, Tensor] = {}
        self._squares: dict[str, Tensor] = {}

    def add(self, update: State) -> None:
        """M ← M + (x − M) / n, S ← S + (x − M_old) (x − M_new)."""
        self._count += 1
        for name, value in update.items():
            mean = self._mean.setdefault(name, torch.zeros_like(value))
            before = value - mean
            mean.add_(before, alpha=1 / self._count)
            self._squares.setdefault(name, torch.zeros_like(value)).addcmul_(before, value - mean)

    @property
    def empty(self) -> bool:
        return not self._count

    def result(self) -> Moments:
        """Mean and deviation of one or more updates."""
        return Moments(self._mean, {name: (value / self._count).sqrt() for name, value in self._squares.items()})
