"""q-FedAvg: Li, Sanjabi, Beirami, Smith 2020, "Fair Resource Allocation in Federated Learning",
https://arxiv.org/abs/1905.10497, Algorithm 2.
"""

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
    RoundContext,
    ServerState,
    Strategy,
    advance,
    strategies,
)
from fedlens.strategies.momentum import effective_steps

STEEPNESS = "h"
"""Name of w_k h_k on the wire."""

SMALLEST = 1e-10
"""Of a loss: F^(q−1) has no value at 0."""

LARGEST = 1e6
"""Of a loss: cross-entropy of a model that has not diverged is far below. A client that claims more is not believed."""


@strategies.register("qfedavg", summary="fairness: clients on which the model does badly count more")
@dataclass(frozen=True)
class QFedAvg(Strategy):
    """x ← x − Σ w_k Δ_k / Σ w_k h_k with Δ_k = F_k^q L (x − y_k) and h_k = q F_k^(q−1) ‖L (x − y_k)‖² + L F_k^q. F_k is
    the loss of the received model on all images that the client trains on. q = 0 is the weighted mean. Running
    statistics are averaged with the same weights.

    The objective Σ p_k F_k^(q+1) / (q + 1) (eq. 2) weighs clients by their images, p_k = n_k / n. The paper draws
    clients with probability p_k and then counts all alike; here all are drawn alike, so w_k = n_k is the counterpart.

    L is 1/η in the paper, whose clients step by plain SGD with learning rate η. With momentum ρ, K steps move as far as
    steps of η ‖a‖₁ / K on average (see `momentum`), which is η without momentum and for K = 1; that is taken for η.

    On the wire both Δ_k and h_k are divided by L, which leaves their ratio and keeps updates of a model's size.
    """

    q: Annotated[float, Field(ge=0, description="q; the paper takes 0.001 to 5, by data set")] = 1.0
    weighted: Annotated[
        bool, Field(description="clients count by their images, as in the paper's objective; false: all count alike")
    ] = True

    needs_sgd: ClassVar[bool] = True
    needs_mean: ClassVar[bool] = True
    needs_cohort: ClassVar[bool] = True
    needs_loss: ClassVar[bool] = True

    def finish(self, ctx: ClientContext, delta: State) -> ClientUpdate:
        moved = ctx.flatten(delta)
        loss = torch.tensor(max(ctx.loss, SMALLEST), dtype=torch.float64)  # whose powers overflow to ∞, not to an error
        squared = moved.cpu().double().square().sum()
        rate = ctx.lr * effective_steps(ctx.steps, ctx.momentum or 0.0) / ctx.steps
        weight = float(ctx.examples) if self.weighted else 1.0
        h = self.q * loss ** (self.q - 1) * squared / rate + loss**self.q
        payload = {**delta, **ctx.unflatten(moved * float(loss**self.q))}
        return ClientUpdate(payload, weight=weight, extra={STEEPNESS: weight * h})

    def largest_extras(self, ctx: ClientContext, norm: float) -> Mapping[str, float]:
        """As a function of F, with ‖Δ‖ given, h is convex: it is largest for the smallest or the largest F."""
        h = (self.q * norm**2 / ctx.lr * loss ** (-self.q - 1) + loss**self.q for loss in (SMALLEST, LARGEST))
        return {STEEPNESS: max(h) * (ctx.examples if self.weighted else 1.0)}

    def step(self, state: ServerState, total: AggregatedUpdate, ctx: RoundContext) -> ServerState:
        h = float(total.extra[STEEPNESS]) * total.count / total.weight  # extras are summed without their weights
        rate = 1 / h if h else 0.0  # a loss of 0 everywhere leaves nothing to do
        return ServerState(advance(state.shared, total.delta, rate, ctx.trainable), state.extra)
