"""FedAvgM: Hsu, Qi, Brown 2019, https://arxiv.org/abs/1909.06335, section 4.2 (server momentum).

The momentum is not Nesterov's, which reproductions of the paper's figures use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field

from fedlens.aggregation.base import AggregatedUpdate
from fedlens.core.types import State
from fedlens.strategies.base import RoundContext, ServerState, Strategy, add, strategies


@strategies.register("fedavgm", summary="FedAvg with momentum on the server, for label-skewed clients")
@dataclass(frozen=True)
class FedAvgM(Strategy):
    """v ← β v + Δ, x ← x + η v with Δ the mean update; running statistics are simply averaged."""

    server_momentum: Annotated[float, Field(ge=0, lt=1, description="β")] = 0.9
    server_lr: Annotated[float, Field(gt=0, description="η")] = 1.0

    def init(self, shared: State) -> ServerState:
        return ServerState(shared, {name: torch.zeros_like(value) for name, value in shared.items()})

    def step(self, state: ServerState, total: AggregatedUpdate, ctx: RoundContext) -> ServerState:
        velocity = dict(state.extra)
        move = dict(total.delta)
        for name in ctx.trainable:
            velocity[name] = state.extra[name] * self.server_momentum + total.delta[name]
            move[name] = velocity[name] * self.server_lr
        return ServerState(add(state.shared, move), velocity)
