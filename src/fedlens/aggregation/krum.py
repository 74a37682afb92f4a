"""Krum: Blanchard, El Mhamdi, Guerraoui, Stainer 2017, "Machine learning with adversaries: Byzantine tolerant gradient
descent", https://arxiv.org/abs/1703.02757, "the Krum function".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from fedlens.aggregation.base import rules
from fedlens.aggregation.gathered import GatheringRule, Updates, squared_distances
from fedlens.core.limits import ClientsOrNone


@rules.register("krum", summary="the one update nearest to its neighbours: tolerates f of 2 f + 3 or more")
@dataclass(frozen=True)
class Krum(GatheringRule):
    """The aggregate is the update with the smallest sum of squared distances to its n − f − 2 nearest neighbours,
    including its running statistics. Distances use the trainable tensors only."""

    f: Annotated[ClientsOrNone, Field(description="number of malicious clients tolerated in a round")] = 1

    def incompatibility(self, cohort: int, /) -> str | None:
        return too_few(self.f, cohort, "krum", 2)

    def combine(self, updates: Updates) -> dict[str, Tensor]:
        squared = squared_distances(updates.states, updates.trainable)
        best = by_score(squared, self.f, range(len(updates.states)))[0]
        return dict(updates.states[best])


def by_score(squared: Tensor, f: int, among: Sequence[int]) -> list[int]:
    """`among` sorted by Krum scores within `among`, best first.

    The score is the sum of the `squared` distances (n, n) to the nearest len(among) − f − 2 others, but to at least
    one. Ties are broken by the sum of all distances, then, as in the paper, by number, which is the order of arrival.
    """
    neighbours = max(len(among) - f - 2, 1)

    def score(one: int) -> tuple[float, float]:
        nearest = squared[one, list(among)].sort().values[1:]  # the first is the distance to itself
        return float(nearest[:neighbours].sum()), float(nearest.sum())

    return sorted(among, key=score)


def too_few(f: int, cohort: int, rule: str, factor: int) -> str | None:
    """The error text if there are fewer than `factor` f + 3 results; else None."""
    needed = factor * f + 3
    if cohort >= needed:
        return None
    bearable = (cohort - 3) // factor
    less = f"use aggregation.f={bearable}, or " if bearable > 0 else ""
    return (
        f"f = {f}: {rule} needs {factor} f + 3 = {needed} results a round or more, and there are {cohort}; {less}have "
        f"{needed} clients a round (federated.fraction_fit, federated.min_fit_clients, data.partition.clients)"
    )
