"""The interface of optimizers. All trainable parameters are one vector, so an optimizer is a function of vectors.

For a small model, the bookkeeping of torch's optimizer classes takes longer than the whole update
(`benchmarks/README.md`); FedLens' own optimizers call torch's functional ones, whose arithmetic is the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from fedlens.core.registry import Registry
from fedlens.core.types import State


class Optimizer(ABC):
    """A rule of local steps. The fields of the dataclass are its configuration keys under `optimizer`; fields called
    `momentum` or `weight_decay` are that section's keys of these names.

    usual_lr  a learning rate to begin with: that of `fedlens check`
    elementwise  it steps every number by itself, and its state is one number for each of them, or the same for all:
                 so it can step several clients' vectors (K, P) in one call. Not inherited
    """

    usual_lr: ClassVar[float] = 0.01
    elementwise: ClassVar[bool] = False

    @abstractmethod
    def step(self, vector: Tensor, gradient: Tensor, lr: float, state: dict[str, Tensor]) -> None:
        """Update `vector` (P,) in place by one step. `state`: what it kept after the step before, empty at first;
        changed in place."""

    @property
    def has_state(self) -> bool:
        """Whether it keeps anything from one step to the next."""
        return True


optimizers: Registry[Optimizer] = Registry("optimizer", "fedlens.training.optimizers")


class VectorOptimizer:
    """An optimizer at work, new or continuing from the stored state `kept`."""

    def __init__(self, rule: Optimizer, kept: State) -> None:
        self._rule = rule
        self._state = dict(kept)
        self._before: Tensor | None = None
        """(P,) scratch space: allocating a vector in every step takes longer than a small model's step itself."""

    def step(self, vector: Tensor, gradient: Tensor, lr: float) -> None:
        """Update `vector` (P,) in place by one step."""
        self._rule.step(vector, gradient, lr, self._state)

    def scaled_step(self, vector: Tensor, gradient: Tensor, lr: float, step_scale: Tensor | None) -> None:
        """`step` scaled by `step_scale` (P,), from 0 (unchanged) to 1; None: the full step."""
        if step_scale is None:
            self.step(vector, gradient, lr)
            return
        self._before = torch.empty_like(vector) if self._before is None else self._before
        self._before.copy_(vector)
        self.step(vector, gradient, lr)
        torch.lerp(self._before, vector, step_scale, out=vector)

    def go_on_with(self, rows: int) -> None:
        """After steps of vectors (K, P): go on with the first of them."""
        self._state = {name: value[:rows] if value.dim() else value for name, value in self._state.items()}
        self._before = None if self._before is None else self._before[:rows]

    def state(self) -> dict[str, Tensor]:
        """State to store: tensors by name; empty before the first step."""
        return dict(self._state)
