"""The geometric median (RFA): Pillutla, Kakade, Harchaoui 2022, https://arxiv.org/abs/1912.13445: the minimiser of
Σ αᵢ ‖v − xᵢ‖ by the paper's smoothed Weiszfeld algorithm.

The paper's steps are secure sums over the clients, so it makes few: three passes, of which the first gives the mean
that Weiszfeld's steps start from (`iterations=2`). Here the updates lie at the server, v always is a mixture of them,
and a step needs their distances only: steps cost next to nothing, and are made until v rests.
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
"""Sum of the changes of all clients' shares in v."""

LONGEST = 1e6
"""Of an update, in lengths of the others. A point so far away pulls by its direction alone, and at a length of 10¹⁵
nothing would be left of the others' distances in double precision."""


@rules.register("geometric_median", summary="the point nearest to all updates (RFA): tolerates half of the weight")
@dataclass(frozen=True)
class GeometricMedian(GatheringRule):
    """v ← Σ βᵢ xᵢ / Σ βᵢ with βᵢ = αᵢ / max(ν, ‖v − xᵢ‖), from the weighted mean on. Distances are those of the
    trainable tensors; running statistics are mixed in the same shares. Updates a million times longer than those of
    half of the weight are shortened to that.
    """

    iterations: Annotated[Times, Field(description="most steps; the paper makes 2, each a message to all")] = 100
    nu: Annotated[float, Field(gt=0, description="ν, the distance below which a client pulls no harder")] = 1e-6
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
        """(n,) the updates' shares in the median, from their weights (n,) and `squared` distances (n, n)."""
        shares = alphas
        for _ in range(self.iterations):
            betas = alphas / distances_to(shares, squared).clamp_min(self.nu)
            before, shares = shares, betas / betas.sum()
            if float((shares - before).abs().sum()) < AT_REST:
                break
        return shares


def shortening(norms: Tensor, alphas: Tensor) -> Tensor:
    """(n,) what updates of lengths `norms` (n,) are multiplied with; 1 but for lengths beyond all reason. Half of the
    weights `alphas` (n,), whose sum is 1, belongs to updates no longer than the one that sets the measure."""
    order = norms.argsort()
    usual = norms[order[int((alphas[order].cumsum(0) < 0.5).sum())]]
    return (LONGEST * usual / norms).clamp(max=1.0) if usual else torch.ones_like(norms)
