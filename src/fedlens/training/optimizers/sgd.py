"""Stochastic gradient descent with momentum (without dampening): the arithmetic of torch.optim.SGD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor
from torch.optim.sgd import sgd

from fedlens.core.limits import Fraction
from fedlens.training.optimizers.base import Optimizer, optimizers


@optimizers.register("sgd", summary="gradient descent with momentum; what most strategies were derived for")
@dataclass(frozen=True)
class SGD(Optimizer):
    momentum: Annotated[Fraction, Field(description="0: none")] = 0.9
    weight_decay: Annotated[float, Field(ge=0, description="L2: factor of the parameters in the gradient")] = 0.0

    usual_lr: ClassVar[float] = 0.05
    elementwise: ClassVar[bool] = True

    def step(self, vector: Tensor, gradient: Tensor, lr: float, state: dict[str, Tensor]) -> None:
        momentum = [state.get("momentum")]
        sgd(
            [vector],
            [gradient],
            momentum,
            foreach=False,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            lr=lr,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        if momentum[0] is not None:
            state["momentum"] = momentum[0]

    @property
    def has_state(self) -> bool:
        return self.momentum > 0
