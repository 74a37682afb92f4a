"""FedAvg: McMahan, Moore, Ramage, Hampson, Agüera y Arcas 2017, https://arxiv.org/abs/1602.05629, Algorithm 1.

The server's learning rate is that of Reddi et al. 2021, https://arxiv.org/abs/2003.00295, Algorithm 1 with SGD as the
server's optimizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from fedlens.aggregation.base import AggregatedUpdate
from fedlens.strategies.base import RoundContext, ServerState, Strategy, advance, strategies


@strategies.register("fedavg", summary="the baseline: average the clients' models, weighted by their images")
@dataclass(frozen=True)
class FedAvg(Strategy):
    """x ← x + η Δ with Δ the mean update. η = 1 is the average of the clients' models."""

    server_lr: Annotated[float, Field(gt=0, description="η")] = 1.0

    def step(self, state: ServerState, total: AggregatedUpdate, ctx: RoundContext) -> ServerState:
        return ServerState(advance(state.shared, total.delta, self.server_lr, ctx.trainable), state.extra)
