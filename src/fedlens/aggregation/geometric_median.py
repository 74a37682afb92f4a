"""The geometric median (RFA): Pillutla, Kakade, Harchaoui 2022, https://arxiv.org/abs/1912.13445: the minimiser of
Σ αᵢ ‖v − xᵢ‖ by the paper's smoothed Weiszfeld algorithm.

In the paper each step is a secure sum over the clients, so there are few: three passes, the first of which gives the
mean that Weiszfeld's steps start from (`iterations=2`). Here the server holds the updates, v is always a linear
combination of them, and a step needs only their distances. Steps are therefore cheap and are repeated until v
converges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedlens.aggregation.base import rules
from fedlens.aggregation.gathered import GatheringRule, Updates, distances_from, distances_to, inner_products, mixture
from fedlens.core.limits import Times

AT_REST = 1e-9
"""Convergence threshold: the sum of the absolute changes of all clients' coefficients in v."""

LONGEST = 1e6
"""The maximum length of an update, relative to the others. At such a distance only its direction matters; a relative
length of 10¹⁵ would destroy the other distances in float64."""


@rules.register("geometric_median", summary="the point nearest to all updates (RFA): tolerates half of the weight")
@dataclass(frozen=True)
class GeometricMedian(GatheringRule):
    """v ← Σ βᵢ xᵢ / Σ βᵢ with βᵢ = αᵢ / max(ν, ‖v − xᵢ‖), starting from the weighted mean. Distances use the trainable
    tensors only; running statistics are combined with the same coefficients. An update over a million times longer than
    the weighted median length is shortened to that limit.
    """

    iterations: Annotated[Times, Field(description="most steps; the paper makes 2, each a message to all")] = 100
    nu: Annotated[float, Field(gt=0, description="ν, smallest distance used in a client's weight")] = 1e-6
    weighted: Annotated[
        bool, Field(description="αᵢ by the clients' images, as they report them; false: all the same")
    ] = True

    def combine(self, updates: Updates) -> dict[str, Tensor]:
        weights = torch.tensor(updates.weights, dtype=torch.float64)
        alphas = weights if self.weighted and bool(weights.sum()) else torch.ones_like(weights)
        alphas = alphas / alphas.sum()
        inner = inner_products(updates.states, updates.trainable)
        factors = shortening(inner.diagonal().sqrt(), alphas)
        shares = self.weiszfeld(alphas, distances_from(inner * factors.outer(factors)))
        return mixture(updates.states, (shares * factors).tolist())

    def weiszfeld(self, alphas: Tensor, squared: Tensor) -> Tensor:
        """(n,) coefficients of the updates in the median, from their weights (n,) and `squared` distances (n, n)."""
        shares = alphas
        for _ in range(self.iterations):
            betas = alphas / distances_to(shares, squared).clamp_min(self.nu)
            before, shares = shares, betas / betas.sum()
            if float((shares - before).abs().sum()) < AT_REST:
                break
        return shares


def shortening(norms: Tensor, alphas: Tensor) -> Tensor:
    """(n,) factors for updates of lengths `norms` (n,): 1 except for extremely long ones. The reference is the weighted
    median length: half of the weights `alphas` (n,), whose sum is 1, belongs to updates no longer than it."""
    order = norms.argsort()
    usual = norms[order[int((alphas[order].cumsum(0) < 0.5).sum())]]
    return (LONGEST * usual / norms).clamp(max=1.0) if usual else torch.ones_like(norms)
