"""Centred clipping: Karimireddy, He, Jaggi 2021, "Learning from history for Byzantine robust optimization",
https://arxiv.org/abs/2012.10333, Algorithm 1: v ← v + 1/n Σ (xᵢ − v) min(1, τ / ‖xᵢ − v‖).

The paper starts each round from the previous round's v, and workers send momenta, so both change little between rounds.
Here each round is independent: it starts from the updates' coordinate-wise median, which lies within the range of the
honest updates while these are the majority, and the step is repeated. So this is the paper's clipping without its
history, and the paper's guarantee against attacks that accumulate over rounds does not apply.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedlens.aggregation.base import rules
from fedlens.aggregation.gathered import GatheringRule, Updates, coordinatewise, distances_to, squared_distances
from fedlens.aggregation.ranks import median
from fedlens.core.limits import Times


@rules.register(
    "centered_clip", summary="the mean around a centre, each update's distance from it clipped to one radius"
)
@dataclass(frozen=True)
class CenteredClip(GatheringRule):
    """All clients have equal weight, and each can move the result by at most τ / n per step. Distances use the
    trainable tensors only; running statistics are aggregated by the coordinate-wise median.
    """

    tau: Annotated[
        float, Field(gt=0, description="τ, the radius: about how far honest updates lie from each other")
    ] = 1.0
    iterations: Annotated[Times, Field(description="steps; the paper makes one a round")] = 5

    def combine(self, updates: Updates) -> dict[str, Tensor]:
        center = coordinatewise(updates.states, median)
        squared = squared_distances([*updates.states, center], updates.trainable)
        *shares, rest = self.clipped(squared).tolist()
        for name in updates.trainable:
            center[name].mul_(rest)
            for state, share in zip(updates.states, shares, strict=True):
                center[name].add_(state[name], alpha=share)
        return center

    def clipped(self, squared: Tensor) -> Tensor:
        """Coefficients (n + 1,) of the updates and, last, of the initial centre in the final centre, computed from all
        `squared` distances (n + 1, n + 1): v is always a linear combination of these points."""
        shares = torch.zeros(len(squared), dtype=torch.float64)
        shares[-1] = 1.0
        for _ in range(self.iterations):
            distances = distances_to(shares, squared)[:-1]
            pulls = (self.tau / distances).clamp(max=1.0) / len(distances)  # τ / 0 is ∞, clamped to 1
            shares = shares * (1 - pulls.sum())
            shares[:-1] += pulls
        return shares
