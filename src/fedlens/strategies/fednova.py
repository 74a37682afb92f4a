"""FedNova: Wang, Liu, Liang, Joshi, Poor 2020, https://arxiv.org/abs/2007.07481, eq. 6 with a_i of section 4.1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from fedlens.aggregation.base import AggregatedUpdate
from fedlens.core.types import State
from fedlens.strategies.base import (
    ClientContext,
    ClientUpdate,
    LocalTerms,
    RoundContext,
    ServerState,
    Strategy,
    advance,
    strategies,
)
from fedlens.strategies.momentum import effective_steps, most_effective_steps

WORK = "work"
"""Name of n_i ‖a_i‖₁ among the extra tensors."""


@strategies.register("fednova", summary="FedAvg with updates per step, for clients that take unequal numbers of steps")
@dataclass(frozen=True)
class FedNova(Strategy):
    """x ← x + η τ_eff Σ p_i Δ_i / ‖a_i‖₁ with τ_eff = Σ p_i ‖a_i‖₁ and p_i the client's share of the cohort's images.

    ‖a_i‖₁ includes momentum. `mu` adds FedProx's term, whose shrinkage is included as well (the paper's "FedNova +
    prox"; the authors' code then uses the numbers of steps for τ_eff). Running statistics are simply averaged.
    """

    needs_own_weights: ClassVar[bool] = True
    needs_sgd: ClassVar[bool] = True
    needs_mean: ClassVar[bool] = True
    needs_cohort: ClassVar[bool] = True

    mu: Annotated[float, Field(ge=0, description="weight of a proximal term; 0: none")] = 0.0
    server_lr: Annotated[float, Field(gt=0, description="η")] = 1.0

    def terms(self, ctx: ClientContext) -> LocalTerms:
        if not self.mu:
            return LocalTerms()
        return LocalTerms(correction=lambda parameters: (parameters - ctx.start).mul_(self.mu))

    def finish(self, ctx: ClientContext, delta: State) -> ClientUpdate:
        """The extra tensor is multiplied by the client's weight here, because extra tensors are summed without
        weights."""
        steps = effective_steps(ctx.steps, ctx.momentum or 0.0, ctx.lr * self.mu)
        normalised = ctx.unflatten(ctx.flatten(delta) / steps)
        work = torch.tensor(ctx.examples * steps, dtype=torch.float64)
        return ClientUpdate({**delta, **normalised}, weight=float(ctx.examples), extra={WORK: work})

    def largest_extras(self, ctx: ClientContext, norm: float) -> Mapping[str, float]:
        decay = ctx.lr * self.mu
        return {WORK: ctx.examples * most_effective_steps(ctx.steps, ctx.momentum or 0.0)} if decay <= 1 else {}

    def step(self, state: ServerState, total: AggregatedUpdate, ctx: RoundContext) -> ServerState:
        effective = float(total.extra[WORK]) * total.count / total.weight
        return ServerState(advance(state.shared, total.delta, self.server_lr * effective, ctx.trainable), state.extra)
