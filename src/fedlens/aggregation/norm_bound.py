"""Norm bounding: Sun, Kairouz, Suresh, McMahan 2019, "Can you really backdoor federated learning?",
https://arxiv.org/abs/1911.07963, its norm thresholding: Σ Δₖ / max(1, ‖Δₖ‖ / M).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

from fedlens.aggregation.base import AggregationRule, Aggregator, rules
from fedlens.aggregation.mean import WeightedMean
from fedlens.aggregation.norms import l2_norm
from fedlens.aggregation.receivers import Receiver, ReceivingAggregator
from fedlens.core.types import ClientResult


@rules.register(
    "norm_bound", summary="the weighted mean of updates clipped to one L2 norm: limits each client's influence"
)
@dataclass(frozen=True)
class NormBound(AggregationRule):
    """Clips the trainable tensors of every update to the L2 norm M, then takes the weighted mean; streams like the
    mean. Running statistics are not comparable in norm with weights: they are averaged without clipping, so they are
    unprotected."""

    bound: Annotated[float, Field(gt=0, description="M; the paper's choice for its digits is 3")] = 3.0

    def aggregator(self, trainable: frozenset[str]) -> Aggregator:
        return ReceivingAggregator(WeightedMean(), {"norm_bound": BoundedUpdates(trainable, self.bound)})


class BoundedUpdates(Receiver):
    """Clips each update by itself, so workers can sum clipped updates."""

    def __init__(self, trainable: frozenset[str], bound: float) -> None:
        self._trainable = trainable
        self._bound = bound

    def add(self, result: ClientResult) -> Iterable[ClientResult]:
        length = l2_norm(result.payload[name] for name in sorted(result.payload.keys() & self._trainable))
        if length <= self._bound:
            return (result,)
        factor = self._bound / length
        payload = {name: value * factor if name in self._trainable else value for name, value in result.payload.items()}
        return (replace(result, payload=payload),)
