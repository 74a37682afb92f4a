"""FedAdagrad: Reddi et al. 2021, https://arxiv.org/abs/2003.00295, Algorithm 2, line "FedAdagrad"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from fedlens.aggregation.base import Total
from fedlens.federation.types import State
from fedlens.strategies.adaptive import adaptive_step, moments
from fedlens.strategies.base import RoundContext, ServerState, Strategy, strategies


@strategies.register("fedadagrad", summary="Adagrad on the server: steps shrink where updates were large")
@dataclass(frozen=True)
class FedAdagrad(Strategy):
    """v ← v + Δ². β₁ = 0 is the paper's setting for it."""

    server_lr: Annotated[float, Field(gt=0, description="η")] = 0.1
    beta1: Annotated[float, Field(ge=0, lt=1, description="β₁")] = 0.0
    tau: Annotated[float, Field(gt=0, description="τ, the degree of adaptivity")] = 1e-3

    def init(self, shared: State) -> ServerState:
        return moments(shared, self.tau)

    def step(self, state: ServerState, total: Total, ctx: RoundContext) -> ServerState:
        def second(v: Tensor, squared: Tensor) -> Tensor:
            return v + squared

        return adaptive_step(state, total, ctx, beta1=self.beta1, lr=self.server_lr, tau=self.tau, second=second)
