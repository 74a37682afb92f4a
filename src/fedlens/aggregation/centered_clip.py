"""Centred clipping: Karimireddy, He, Jaggi 2021, "Learning from history for Byzantine robust optimization",
https://arxiv.org/abs/2012.10333, Algorithm 1: v ← v + 1/n Σ (xᵢ − v) min(1, τ / ‖xᵢ − v‖).

The paper starts each round from the last round's v, and lets workers send momenta, so that both hardly change from
round to round. Here every round stands for itself: it starts from the updates' coordinate-wise median, which lies
within the honest ones' range while they are more than half, and the step is repeated. So this is the paper's clipping
without its history, and its guarantee against lies that add up over rounds does not carry over.
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


@rules.register("centered_clip", summary="the mean around a centre, each update's distance from it cut to one radius")
@dataclass(frozen=True)
class CenteredClip(GatheringRule):
    """Every client counts the same, and can move the result by τ / n a step at most. Distances are those of the
    trainable tensors; of running statistics, the coordinate-wise median stands.
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
        """(n + 1,) shares of the updates and, last, of the first centre in the last one, from all their `squared`
        distances (n + 1, n + 1): v always is a mixture of them."""
        shares = torch.zeros(len(squared), dtype=torch.float64)
        shares[-1] = 1.0
        for _ in range(self.iterations):
            distances = distances_to(shares, squared)[:-1]
            pulls = (self.tau / distances).clamp(max=1.0) / len(distances)  # τ / 0 is ∞, cut to 1
            shares = shares * (1 - pulls.sum())
            shares[:-1] += pulls
        return shares
