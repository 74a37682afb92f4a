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
"""Name of w_k h_k among the extra tensors."""

SMALLEST = 1e-10
"""Lower bound of a loss: F^(q−1) is undefined at 0."""

LARGEST = 1e6
"""Upper bound of a loss: the cross-entropy of a model that has not diverged is far lower. Larger reported values are
rejected."""


@strategies.register("qfedavg", summary="fairness: clients with a higher loss get more weight")
@dataclass(frozen=True)
class QFedAvg(Strategy):
    """x ← x − Σ w_k Δ_k / Σ w_k h_k with Δ_k = F_k^q L (x − y_k) and h_k = q F_k^(q−1) ‖L (x − y_k)‖² + L F_k^q. F_k is
    the loss of the received model on all the client's training images. q = 0 is the weighted mean. Running statistics
    are averaged with the same weights.

    The objective Σ p_k F_k^(q+1) / (q + 1) (eq. 2) weights clients by their images, p_k = n_k / n. The paper samples
    clients with probability p_k and gives them equal weights; here sampling is uniform, so the equivalent weight is w_k
    = n_k.

    L is 1/η in the paper, whose clients use plain SGD with learning rate η. With momentum ρ, the mean effective
    learning rate of K steps is η ‖a‖₁ / K (see `momentum`), which equals η without momentum or for K = 1; it replaces
    η.

    Clients send both Δ_k and h_k divided by L, which does not change their ratio and keeps updates in the range of the
    model's values.
    """

    q: Annotated[float, Field(ge=0, description="q; the paper takes 0.001 to 5, by data set")] = 1.0
    weighted: Annotated[
        bool, Field(description="clients count by their images, as in the paper's objective; false: all count alike")
    ] = True

    needs_own_weights: ClassVar[bool] = True
    needs_sgd: ClassVar[bool] = True
    needs_mean: ClassVar[bool] = True
    needs_cohort: ClassVar[bool] = True
    needs_loss: ClassVar[bool] = True

    def finish(self, ctx: ClientContext, delta: State) -> ClientUpdate:
        moved = ctx.flatten(delta)
        # float64, whose powers overflow to ∞ instead of raising an error
        loss = torch.tensor(max(ctx.loss, SMALLEST), dtype=torch.float64)
        squared = moved.cpu().double().square().sum()
        rate = ctx.lr * effective_steps(ctx.steps, ctx.momentum or 0.0) / ctx.steps
        weight = float(ctx.examples) if self.weighted else 1.0
        h = self.q * loss ** (self.q - 1) * squared / rate + loss**self.q
        payload = {**delta, **ctx.unflatten(moved * float(loss**self.q))}
        return ClientUpdate(payload, weight=weight, extra={STEEPNESS: weight * h})

    def largest_extras(self, ctx: ClientContext, norm: float) -> Mapping[str, float]:
        """h is convex as a function of F for a given ‖Δ‖, so its maximum is at the smallest or the largest F."""
        h = (self.q * norm**2 / ctx.lr * loss ** (-self.q - 1) + loss**self.q for loss in (SMALLEST, LARGEST))
        return {STEEPNESS: max(h) * (ctx.examples if self.weighted else 1.0)}

    def step(self, state: ServerState, total: AggregatedUpdate, ctx: RoundContext) -> ServerState:
        h = float(total.extra[STEEPNESS]) * total.count / total.weight  # extra tensors are summed without weights
        rate = 1 / h if h else 0.0  # a loss of 0 at all clients: no step
        return ServerState(advance(state.shared, total.delta, rate, ctx.trainable), state.extra)
