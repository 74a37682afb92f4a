"""FedAdagrad, FedAdam and FedYogi: Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan 2021,
https://arxiv.org/abs/2003.00295, Algorithm 2: m ← β₁ m + (1 − β₁) Δ, then v by each method's own rule, then
x ← x + η m / (√v + τ). m starts at 0 and v at τ², the minimum that the paper allows (its experiments started at 0).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedlens.aggregation.base import AggregatedUpdate
from fedlens.core.types import State, prefixed
from fedlens.strategies.base import RoundContext, ServerState, Strategy, add, strategies


@dataclass(frozen=True)
class Adaptive(Strategy):
    """The common part of the three: all but the second moment. As in the paper, there is no bias correction. Running
    statistics are averaged without it."""

    server_lr: Annotated[float, Field(gt=0, description="η")] = 0.01
    beta1: Annotated[float, Field(ge=0, lt=1, description="β₁")] = 0.9
    tau: Annotated[float, Field(gt=0, description="τ, the degree of adaptivity")] = 1e-3

    @abstractmethod
    def second_moment(self, v: Tensor, squared: Tensor) -> Tensor:
        """The new v, from the previous v and Δ²."""

    def init(self, shared: State) -> ServerState:
        first = {name: torch.zeros_like(value) for name, value in shared.items()}
        second = {name: torch.full_like(value, self.tau**2) for name, value in shared.items()}
        return ServerState(shared, prefixed("m", first) | prefixed("v", second))

    def step(self, state: ServerState, total: AggregatedUpdate, ctx: RoundContext) -> ServerState:
        extra, move = dict(state.extra), dict(total.delta)
        for name in ctx.trainable:
            delta = total.delta[name]
            m = extra[f"m/{name}"] = extra[f"m/{name}"] * self.beta1 + delta * (1 - self.beta1)
            v = extra[f"v/{name}"] = self.second_moment(extra[f"v/{name}"], delta.square())
            move[name] = m * self.server_lr / (v.sqrt() + self.tau)
        return ServerState(add(state.shared, move), extra)


@strategies.register("fedadagrad", summary="Adagrad on the server: steps shrink where updates were large")
@dataclass(frozen=True)
class FedAdagrad(Adaptive):
    """v ← v + Δ². β₁ = 0 is the paper's setting for it."""

    server_lr: Annotated[float, Field(gt=0, description="η")] = 0.1
    beta1: Annotated[float, Field(ge=0, lt=1, description="β₁")] = 0.0

    def second_moment(self, v: Tensor, squared: Tensor) -> Tensor:
        return v + squared


@strategies.register("fedadam", summary="Adam on the server: adapts to each parameter, for sparse or uneven updates")
@dataclass(frozen=True)
class FedAdam(Adaptive):
    """v ← β₂ v + (1 − β₂) Δ²."""

    beta2: Annotated[float, Field(ge=0, lt=1, description="β₂")] = 0.99

    def second_moment(self, v: Tensor, squared: Tensor) -> Tensor:
        return v * self.beta2 + squared * (1 - self.beta2)


@strategies.register("fedyogi", summary="Yogi on the server: like FedAdam, but the step size recovers slowly")
@dataclass(frozen=True)
class FedYogi(Adaptive):
    """v ← v − (1 − β₂) Δ² sign(v − Δ²)."""

    beta2: Annotated[float, Field(ge=0, lt=1, description="β₂")] = 0.99

    def second_moment(self, v: Tensor, squared: Tensor) -> Tensor:
        return v - squared * (v - squared).sign() * (1 - self.beta2)
