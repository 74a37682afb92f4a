"""SGD and AdamW on one parameter vector, through torch's functional optimizers.

For a small model, the bookkeeping of torch's optimizer classes takes longer than the whole update
(`benchmarks/README.md`); the arithmetic is the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from fedlens.core.types import State
from fedlens.training.settings import OptimizerSettings


class VectorOptimizer(ABC):
    """Steps a (P,) vector in place; its state can be stored between rounds."""

    _before: Tensor | None = None
    """(P,) scratch space: allocating a vector in every step takes longer than a small model's step itself."""

    @abstractmethod
    def step(self, vector: Tensor, gradient: Tensor, lr: float) -> None:
        """Update `vector` in place by one step."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """State to store: tensors by name; empty before the first step."""

    def scaled_step(self, vector: Tensor, gradient: Tensor, lr: float, step_scale: Tensor | None) -> None:
        """`step` scaled by `step_scale` (P,), from 0 (unchanged) to 1; None: the full step."""
        if step_scale is None:
            self.step(vector, gradient, lr)
            return
        self._before = torch.empty_like(vector) if self._before is None else self._before
        self._before.copy_(vector)
        self.step(vector, gradient, lr)
        torch.lerp(self._before, vector, step_scale, out=vector)


class SGD(VectorOptimizer):
    """torch.optim.SGD's arithmetic (momentum without dampening)."""

    def __init__(self, settings: OptimizerSettings, kept: State) -> None:
        self._settings = settings
        self._momentum: list[Tensor | None] = [kept.get("momentum")]

    def step(self, vector: Tensor, gradient: Tensor, lr: float) -> None:
        sgd(
            [vector],
            [gradient],
            self._momentum,
            foreach=False,
            weight_decay=self._settings.weight_decay,
            momentum=self._settings.momentum,
            lr=lr,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )

    def state(self) -> dict[str, Tensor]:
        (momentum,) = self._momentum
        return {} if momentum is None else {"momentum": momentum}


class AdamW(VectorOptimizer):
    """torch.optim.AdamW's arithmetic with its default β₁ = 0.9, β₂ = 0.999, ε = 1e-8."""

    def __init__(self, settings: OptimizerSettings, kept: State) -> None:
        self._weight_decay = settings.weight_decay
        self._state = dict(kept)

    def step(self, vector: Tensor, gradient: Tensor, lr: float) -> None:
        if not self._state:
            self._state = {
                "first": torch.zeros_like(vector),
                "second": torch.zeros_like(vector),
                "steps": torch.zeros(()),
            }
        adamw(
            [vector],
            [gradient],
            [self._state["first"]],
            [self._state["second"]],
            [],
            [self._state["steps"]],
            foreach=False,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=lr,
            weight_decay=self._weight_decay,
            eps=1e-8,
            maximize=False,
        )

    def state(self) -> dict[str, Tensor]:
        return dict(self._state)


def make_optimizer(settings: OptimizerSettings, kept: State) -> VectorOptimizer:
    """A new optimizer, or one that continues from the stored state `kept`."""
    return SGD(settings, kept) if settings.name == "sgd" else AdamW(settings, kept)
