"""Bulyan over Krum: El Mhamdi, Guerraoui, Rouault 2018, "The hidden vulnerability of distributed learning in
Byzantium", https://arxiv.org/abs/1802.07927.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedlens.aggregation.base import rules
from fedlens.aggregation.gathered import GatheringRule, Updates, squared_distances, used_up
from fedlens.aggregation.krum import by_score, too_few
from fedlens.aggregation.ranks import ranked
from fedlens.core.limits import ClientsOrNone


@rules.register("bulyan", summary="the mean around the median of Krum's selection: tolerates f of 4 f + 3 or more")
@dataclass(frozen=True)
class Bulyan(GatheringRule):
    """Krum selects θ = n − 2 f updates, one after another from those that remain; in every coordinate of these, the β =
    θ − 2 f values nearest to the median are averaged. The same applies to running statistics."""

    f: Annotated[ClientsOrNone, Field(description="number of malicious clients tolerated in a round")] = 1

    def incompatibility(self, cohort: int, /) -> str | None:
        return too_few(self.f, cohort, "bulyan", 4)

    def combine(self, updates: Updates) -> dict[str, Tensor]:
        squared = squared_distances(updates.states, updates.trainable)
        chosen = [updates.states[one] for one in self.selected(squared)]
        return used_up(chosen, around_the_median(len(chosen) - 2 * self.f))

    def selected(self, squared: Tensor) -> list[int]:
        """Indices of the θ updates that Krum selects, in order of selection."""
        left = list(range(len(squared)))
        for _ in range(len(squared) - 2 * self.f):
            left.remove(by_score(squared, self.f, left)[0])
        return [one for one in range(len(squared)) if one not in left]


def around_the_median(kept: int) -> Callable[[Tensor], Tensor]:
    """Rows (n, k) → (k,) the mean of the `kept` values nearest to the median.

    In sorted order these values are adjacent: a window of `kept` ranks, which moves up by one as long as its lowest
    value is farther from the median than the next higher value. It always contains exactly one of the ranks r, r +
    kept, r + 2 kept, …
    """

    def mean(rows: Tensor) -> Tensor:
        count = len(rows)
        values = ranked(rows, range(count))
        middle = (values[(count - 1) // 2] + values[count // 2]) / 2
        total = torch.zeros_like(middle)
        for rank in range(kept):
            inside = values[rank]
            for low in range(rank, count - kept, kept):
                above = values[low + kept]
                inside = torch.where(middle - values[low] > above - middle, above, inside)
            total += inside
        return total / kept

    return mean
