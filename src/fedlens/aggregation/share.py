"""A bound on how much of a step one client decides by claiming many images.

With weights w_1 … w_n and the largest share s, the weights become min(w_i, c) for the c that solves

    c = s · Σ min(w_i, c)

Above c are fewer than 1/s clients, for each of them has the share s then. Fewer clients than 1/s cannot all have less
than s: they count alike.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from fedlens.aggregation.base import Aggregator, Total
from fedlens.federation.types import Answer, Partial, State

_ROUNDING = 1e-9
"""n · s = 1 is meant to hold for n = 3 and s = 1/3, as floats have it."""


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


class LimitedShare(Aggregator):
    """Another aggregator, whose answers have no larger share of the weight than `share`.

    Whose weight will be reduced is known only when all answers are there. It can be the ⌊1/share⌋ heaviest, so only
    their updates are kept by themselves until then. An extra of a reduced answer is reduced with its weight: it is a
    sum over a client's images where a strategy weighs by images, and where all count alike nothing is reduced.
    """

    mergeable = False

    def __init__(self, inner: Aggregator, share: float) -> None:
        self._inner = inner
        self._share = share
        self._room = math.floor(1 / share + _ROUNDING)
        self._heaviest: list[tuple[float, int, Answer]] = []
        self._weights: list[float] = []

    def add(self, answer: Answer) -> None:
        weight = answer.report.weight
        heapq.heappush(self._heaviest, (weight, len(self._weights), answer))
        self._weights.append(weight)
        if len(self._heaviest) > self._room:
            self._inner.add(heapq.heappop(self._heaviest)[2])

    def merge(self, partial: Partial) -> None:
        raise TypeError("a limited share needs every answer by itself")

    def partial(self, round_number: int) -> Partial:
        raise TypeError("a limited share needs every answer by itself")

    def result(self) -> Total | None:
        limit = largest_weight(self._weights, self._share) if self._weights else 0.0
        for _, _, answer in sorted(self._heaviest, key=lambda held: held[1]):
            self._inner.add(reduced(answer, limit))
        self._heaviest.clear()
        return self._inner.result()


def reduced(answer: Answer, limit: float) -> Answer:
    """`answer` with a weight of `limit` at most, and its extras in proportion."""
    weight = answer.report.weight
    if weight <= limit:
        return answer
    extra: State = {name: value * (limit / weight) for name, value in answer.extra.items()}
    return replace(answer, report=replace(answer.report, weight=limit), extra=extra)
