"""FedAdam: Reddi et al. 2021, https://arxiv.org/abs/2003.00295, Algorithm 2, line "FedAdam"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from fedlens.aggregation.base import Total
from fedlens.federation.types import State
from fedlens.strategies.adaptive import adaptive_step, moments
from fedlens.strategies.base import RoundContext, ServerState, Strategy, strategies


@strategies.register("fedadam", summary="Adam on the server: adapts to each parameter, for sparse or uneven updates")
@dataclass(frozen=True)
class FedAdam(Strategy):
    """v ← β₂ v + (1 − β₂) Δ²."""

    server_lr: Annotated[float, Field(gt=0, description="η")] = 0.01
    beta1: Annotated[float, Field(ge=0, lt=1, description="β₁")] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1, description="β₂")] = 0.99
    tau: Annotated[float, Field(gt=0, description="τ, the degree of adaptivity")] = 1e-3

    def init(self, shared: State) -> ServerState:
        return moments(shared, self.tau)

    def step(self, state: ServerState, total: Total, ctx: RoundContext) -> ServerState:
        def second(v: Tensor, squared: Tensor) -> Tensor:
            return v * self.beta2 + squared * (1 - self.beta2)

        return adaptive_step(state, total, ctx, beta1=self.beta1, lr=self.server_lr, tau=self.tau, second=second)
