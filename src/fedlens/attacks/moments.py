"""Mean and deviation of a stream of updates: Welford 1962, "Note on a method for calculating corrected sums of squares
and products", in one pass and without the loss of digits that Σ x² − (Σ x)² / n has.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedlens.core.types import State


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation (of the population) of several updates, coordinate by coordinate."""

    mean: State
    deviation: State


class RunningMoments:
    """Two models' memory, however many updates."""

    def __init__(self) -> None:
        self._count = 0
        self._mean: dict[str, Tensor] = {}
        self._squares: dict[str, Tensor] = {}

    def add(self, update: State) -> None:
        """M ← M + (x − M) / n, S ← S + (x − M before) (x − M after)."""
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
        """Of one update or more."""
        return Moments(self._mean, {name: (value / self._count).sqrt() for name, value in self._squares.items()})
