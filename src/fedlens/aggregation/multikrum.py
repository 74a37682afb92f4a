"""Multi-Krum: Blanchard, El Mhamdi, Guerraoui, Stainer 2017, https://arxiv.org/abs/1703.02757, Krum's variant in
its experiments, with their m = n − f.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from fedlens.aggregation.base import rules
from fedlens.aggregation.gathered import GatheringRule, Updates, mixture, squared_distances
from fedlens.aggregation.krum import by_score, too_few
from fedlens.core.limits import Clients, ClientsOrNone


@rules.register("multikrum", summary="the mean of the m updates with the best Krum scores: between Krum and the mean")
@dataclass(frozen=True)
class MultiKrum(GatheringRule):
    """The unweighted mean of the m updates with the best Krum scores, including their running statistics."""

    f: Annotated[ClientsOrNone, Field(description="number of malicious clients tolerated in a round")] = 1
    m: Annotated[Clients | None, Field(description="how many are averaged; default: n − f")] = None

    def incompatibility(self, cohort: int, /) -> str | None:
        if self.m is not None and self.m > cohort:
            return f"m = {self.m}: there are only {cohort} results a round; use aggregation.m={cohort} or less"
        return too_few(self.f, cohort, "multikrum", 2)

    def combine(self, updates: Updates) -> dict[str, Tensor]:
        count = len(updates.states)
        squared = squared_distances(updates.states, updates.trainable)
        best = by_score(squared, self.f, range(count))[: self.m or count - self.f]
        return mixture([updates.states[one] for one in best], [1 / len(best)] * len(best))
