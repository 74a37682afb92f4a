"""The coordinate-wise trimmed mean: Yin, Chen, Ramchandran, Bartlett 2018, https://arxiv.org/abs/1803.01498,
Definition 2 and Algorithm 1, option II.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedlens.aggregation.base import rules
from fedlens.aggregation.gathered import GatheringRule, Updates, used_up
from fedlens.aggregation.ranks import ranked


@rules.register("trimmed_mean", summary="the mean of every coordinate without its extremes: tolerates a share beta")
@dataclass(frozen=True)
class TrimmedMean(GatheringRule):
    """In every coordinate the β n largest and the β n smallest values are removed, β n rounded up so that at least a
    share β is removed, and the rest is averaged. All clients have equal weight. The same applies to running
    statistics."""

    beta: Annotated[float, Field(ge=0, lt=0.5, description="β, the share left out on either side")] = 0.2

    def incompatibility(self, cohort: int, /) -> str | None:
        if 2 * self.trimmed(cohort) < cohort:
            return None
        return (
            f"beta = {self.beta:g}: of {cohort} results a round none would be left between {self.trimmed(cohort)} on "
            "either side; use a smaller beta or more clients a round"
        )

    def trimmed(self, count: int) -> int:
        """The number of values removed on either side."""
        return math.ceil(self.beta * count - 1e-9)  # 0.07 × 100 is 7.000000000000001 in binary

    def combine(self, updates: Updates) -> dict[str, Tensor]:
        cut, count = self.trimmed(len(updates.states)), len(updates.states)

        def trimmed_mean(rows: Tensor) -> Tensor:
            return torch.stack(ranked(rows, range(cut, count - cut))).mean(0)

        return used_up(updates.states, trimmed_mean)
