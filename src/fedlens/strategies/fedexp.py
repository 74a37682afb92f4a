"""FedExP: Jhunjhunwala, Wang, Joshi 2023, https://arxiv.org/abs/2301.09604, Algorithm 1.

The paper evaluates the mean of the last two models; here it is the last one. The authors' code weights clients by their
data, and replaces ε by M ε, which decreases every round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from fedlens.aggregation.base import AggregatedUpdate
from fedlens.core.types import State
from fedlens.strategies.base import (
    ClientContext,
    ClientUpdate,
    RoundContext,
    ServerState,
    Strategy,
    advance,
    strategies,
)

SQUARED = "squared_norm"
"""Name of ‖Δ_i‖² among the extra tensors."""


@strategies.register("fedexp", summary="FedAvg that steps further on the server where the clients' updates disagree")
@dataclass(frozen=True)
class FedExP(Strategy):
    """x ← x + η_g Δ̄ with η_g = max {1, Σ_i ‖Δ_i‖² / (2 M (‖Δ̄‖² + ε))} over the M clients of the round, with equal
    weights. Running statistics are simply averaged: they do not enter η_g and are not scaled by it.
    """

    epsilon: Annotated[float, Field(ge=0, description="ε; the paper takes 0.001 for CIFAR, 0.1 for EMNIST")] = 1e-3

    needs_own_weights: ClassVar[bool] = True
    needs_mean: ClassVar[bool] = True
    needs_cohort: ClassVar[bool] = True

    def finish(self, ctx: ClientContext, delta: State) -> ClientUpdate:
        squared = ctx.flatten(delta).cpu().double().square().sum()
        return ClientUpdate(delta, weight=1.0, extra={SQUARED: squared})

    def largest_extras(self, ctx: ClientContext, norm: float) -> Mapping[str, float]:
        return {SQUARED: norm**2}

    def step(self, state: ServerState, total: AggregatedUpdate, ctx: RoundContext) -> ServerState:
        mean = sum(float(total.delta[name].double().square().sum()) for name in sorted(ctx.trainable))
        alike = 2 * (mean + self.epsilon)
        rate = max(1.0, float(total.extra[SQUARED]) / alike) if alike else 1.0
        return ServerState(advance(state.shared, total.delta, rate, ctx.trainable), state.extra)
