"""AdamW: Loshchilov, Hutter 2019, https://arxiv.org/abs/1711.05101, with the arithmetic of torch.optim.AdamW and its
default β₁ = 0.9, β₂ = 0.999, ε = 1e-8."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.optim.adamw import adamw

from fedlens.training.optimizers.base import Optimizer, optimizers


@optimizers.register("adamw", summary="Adam with decoupled weight decay")
@dataclass(frozen=True)
class AdamW(Optimizer):
    weight_decay: Annotated[float, Field(ge=0, description="decoupled: parameters × lr × this are subtracted")] = 0.0

    usual_lr: ClassVar[float] = 0.001
    elementwise: ClassVar[bool] = True

    def step(self, vector: Tensor, gradient: Tensor, lr: float, state: dict[str, Tensor]) -> None:
        if not state:
            state |= {"first": torch.zeros_like(vector), "second": torch.zeros_like(vector), "steps": torch.zeros(())}
        adamw(
            [vector],
            [gradient],
            [state["first"]],
            [state["second"]],
            [],
            [state["steps"]],
            foreach=False,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=lr,
            weight_decay=self.weight_decay,
            eps=1e-8,
            maximize=False,
        )
