"""SCAFFOLD: Karimireddy, Kale, Mohri, Reddi, Stich, Suresh 2020, https://arxiv.org/abs/1910.06378, Algorithm 1 with
option II of its line 12.

The paper's local steps are plain SGD, so option II's (x − y) / (K η) is the mean of the K corrected gradients. With
momentum ρ each gradient contributes up to 1 / (1 − ρ) times to that displacement. Divided by K η, the control variates
and every correction would be too large by that factor, and training would collapse. Here the displacement is divided by
η ‖a‖₁ (see `momentum`), which is K η for plain SGD and always gives a mean of gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedlens.aggregation.base import AggregatedUpdate
from fedlens.aggregation.norms import l2_norm
from fedlens.core.types import State, prefixed, under
from fedlens.strategies.base import (
    ClientContext,
    ClientUpdate,
    LocalTerms,
    RoundContext,
    ServerState,
    Strategy,
    add,
    advance,
    strategies,
)
from fedlens.strategies.momentum import effective_steps

CONTROL = "c"
"""Prefix of the control variate c among the extra tensors."""


@strategies.register("scaffold", summary="control variates undo the drift of unequal clients, for twice the traffic")
@dataclass(frozen=True)
class Scaffold(Strategy):
    """y ← y − η (g − c_i + c) at the clients; x ← x + η_g mean(y − x), c ← c + |S|/N mean(c_i⁺ − c_i) on the server.
    All clients have equal weight; running statistics are simply averaged."""

    server_lr: Annotated[float, Field(gt=0, description="η_g")] = 1.0

    needs_own_weights: ClassVar[bool] = True
    needs_sgd: ClassVar[bool] = True
    needs_mean: ClassVar[bool] = True
    needs_cohort: ClassVar[bool] = True

    def init(self, shared: State) -> ServerState:
        return ServerState(shared, {name: torch.zeros_like(value) for name, value in shared.items()})

    def broadcast(self, state: ServerState, ctx: RoundContext) -> State:
        control = {name: value for name, value in state.extra.items() if name in ctx.trainable}
        return {**state.shared, **prefixed(CONTROL, control)}

    def terms(self, ctx: ClientContext) -> LocalTerms:
        drift = _everybodys(ctx) - _own(ctx)
        return LocalTerms(correction=lambda _parameters: drift)

    def finish(self, ctx: ClientContext, delta: State) -> ClientUpdate:
        """c_i⁺ = c_i − c + (x − y) / (η ‖a‖₁)."""
        own = _own(ctx)
        new = own - _everybodys(ctx) - ctx.flatten(delta) / (ctx.lr * effective_steps(ctx.steps, ctx.momentum or 0.0))
        change = prefixed(CONTROL, ctx.unflatten(new - own))
        return ClientUpdate(delta, weight=1.0, extra=change, client_state=ctx.unflatten(new))

    def largest_extras(self, ctx: ClientContext, norm: float) -> Mapping[str, float]:
        """‖c_i⁺ − c_i‖ = ‖c + (y − x) / (η ‖a‖₁)‖ with ‖a‖₁ ≥ 1."""
        control = prefixed(CONTROL, ctx.unflatten(_everybodys(ctx)))
        return dict.fromkeys(control, l2_norm(control.values()) + norm / ctx.lr)

    def step(self, state: ServerState, total: AggregatedUpdate, ctx: RoundContext) -> ServerState:
        share = total.count / ctx.population
        change = {name: value * share for name, value in under(CONTROL, total.extra).items()}
        shared = advance(state.shared, total.delta, self.server_lr, ctx.trainable)
        return ServerState(shared, add(state.extra, change))


def _everybodys(ctx: ClientContext) -> Tensor:
    return ctx.flatten(under(CONTROL, ctx.received))


def _own(ctx: ClientContext) -> Tensor:
    """c_i; zero before the client's first round."""
    return ctx.flatten(ctx.client_state)
