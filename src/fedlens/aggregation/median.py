"""The coordinate-wise median: Yin, Chen, Ramchandran, Bartlett 2018, https://arxiv.org/abs/1803.01498, Definition 1 and
Algorithm 1, option I.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fedlens.aggregation.base import rules
from fedlens.aggregation.gathered import GatheringRule, Updates, used_up
from fedlens.aggregation.ranks import median


@rules.register("median", summary="the median of every coordinate: tolerates fewer than half malicious clients")
@dataclass(frozen=True)
class Median(GatheringRule):
    """All clients have equal weight, whatever number of images they report. The same applies to running statistics."""

    def combine(self, updates: Updates) -> dict[str, Tensor]:
        return used_up(updates.states, median)
