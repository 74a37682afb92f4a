"""FedDyn: Acar, Zhao, Matas Navarro, Mattina, Whatmough, Saligrama 2021, https://arxiv.org/abs/2111.04263,
Algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedlens.aggregation.base import AggregatedUpdate
from fedlens.core.types import State
from fedlens.strategies.base import (
    ClientContext,
    ClientUpdate,
    LocalTerms,
    RoundContext,
    ServerState,
    Strategy,
    add,
    strategies,
)


@strategies.register("feddyn", summary="a dynamic regulariser makes the clients' optima agree with the federation's")
@dataclass(frozen=True)
class FedDyn(Strategy):
    """Clients minimise L_k(θ) − ⟨g_k, θ⟩ + α/2 ‖θ − θᵗ⁻¹‖² and keep g_k ← g_k − α (θ_k − θᵗ⁻¹), their gradient at the
    end of training. The server keeps h ← h − α/m Σ (θ_k − θᵗ⁻¹) and steps to θᵗ = mean θ_k − h/α. All clients have
    equal weight, while the authors' code divides α by a client's share of the data; running statistics are simply
    averaged."""

    alpha: Annotated[float, Field(gt=0, description="α; the paper tries 0.001 to 0.1")] = 0.01

    needs_own_weights: ClassVar[bool] = True
    needs_mean: ClassVar[bool] = True
    needs_cohort: ClassVar[bool] = True

    def init(self, shared: State) -> ServerState:
        return ServerState(shared, {name: torch.zeros_like(value) for name, value in shared.items()})

    def terms(self, ctx: ClientContext) -> LocalTerms:
        centre = ctx.start + ctx.flatten(ctx.client_state) / self.alpha

        def regularised(parameters: Tensor) -> Tensor:
            """α (θ − θᵗ⁻¹) − g_k."""
            return (parameters - centre).mul_(self.alpha)

        return LocalTerms(correction=regularised)

    def finish(self, ctx: ClientContext, delta: State) -> ClientUpdate:
        gradient = ctx.flatten(ctx.client_state) - ctx.flatten(delta) * self.alpha
        return ClientUpdate(delta, weight=1.0, client_state=ctx.unflatten(gradient))

    def step(self, state: ServerState, total: AggregatedUpdate, ctx: RoundContext) -> ServerState:
        share = total.count / ctx.population
        h, move = dict(state.extra), dict(total.delta)
        for name in ctx.trainable:
            h[name] = state.extra[name] - total.delta[name] * (self.alpha * share)
            move[name] = total.delta[name] - h[name] / self.alpha
        return ServerState(add(state.shared, move), h)
