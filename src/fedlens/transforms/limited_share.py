"""A bound on the share of a step's weight that one client can have by claiming many images.

With weights w_1 … w_n and the largest share s, the weights become min(w_i, c) for the c that solves

    c = s · Σ min(w_i, c)

Above c are fewer than 1/s clients, for each of them has the share s then. Fewer clients than 1/s cannot all have less
than s: they count alike.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import ClassVar

from fedlens.aggregation.receivers import Receiver
from fedlens.core.types import ClientResult, State
from fedlens.transforms.base import ReceivingContext, UpdateTransform

_ROUNDING = 1e-9
"""Tolerance, so that n · s = 1 holds for n = 3 and s = 1/3 in floating point."""


def largest_weight(weights: Sequence[float], share: float) -> float:
    """c of the equation above, or the smallest weight where there is none. `weights`: at least one, all above 0."""
    if len(weights) * share <= 1 + _ROUNDING:
        return min(weights)
    descending = sorted(weights, reverse=True)
    below = [*reversed(list(accumulate(reversed(descending)))), 0.0]  # below[m] = Σ of all but the m largest
    m = 0
    while descending[m] > (limit := share * below[m] / (1 - m * share)):
        m += 1
    return limit if m else descending[0]


@dataclass(frozen=True)
class LimitedShare(UpdateTransform):
    """No result has a larger share of the weight than `share`."""

    share: float
    name: ClassVar[str] = "limited_share"
    any_device: ClassVar[bool] = True

    def receiver(self, ctx: ReceivingContext) -> Receiver:
        return HeaviestResults(self.share)


class HeaviestResults(Receiver):
    """Which weights are reduced is known only when all results are there. Only the ⌊1/share⌋ heaviest can be concerned,
    so only they are held until then. An extra is reduced with its result's weight: where a strategy weighs by images it
    is a sum over the client's images, and where all clients count alike nothing is reduced.
    """

    mergeable = False

    def __init__(self, share: float) -> None:
        self._share = share
        self._room = math.floor(1 / share + _ROUNDING)
        self._heaviest: list[tuple[float, int, ClientResult]] = []
        self._weights: list[float] = []

    def add(self, result: ClientResult) -> Iterable[ClientResult]:
        weight = result.report.weight
        heapq.heappush(self._heaviest, (weight, len(self._weights), result))
        self._weights.append(weight)
        return (heapq.heappop(self._heaviest)[2],) if len(self._heaviest) > self._room else ()

    def flush(self) -> Iterable[ClientResult]:
        limit = largest_weight(self._weights, self._share) if self._weights else 0.0
        held, self._heaviest = sorted(self._heaviest, key=lambda one: one[1]), []
        for _, _, result in held:
            yield reduced(result, limit)


def reduced(result: ClientResult, limit: float) -> ClientResult:
    """The result with a weight of at most `limit`, and its extras in proportion."""
    weight = result.report.weight
    if weight <= limit:
        return result
    extra: State = {name: value * (limit / weight) for name, value in result.extra.items()}
    return replace(result, report=replace(result.report, weight=limit), extra=extra)
