"""The weighted mean: McMahan et al. 2017, https://arxiv.org/abs/1602.05629, the server's line in Algorithm 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedlens.aggregation.base import AggregatedUpdate, AggregationRule, Aggregator, rules
from fedlens.core.types import ClientReport, ClientResult, PartialSum, State, part_of


class WeightedMean(Aggregator):
    """Σ w·update / Σ w as a running sum: uses the memory of one model, whatever the number of clients.

    Results are added in order of arrival, so a fixed order gives identical bits.
    """

    mergeable: ClassVar[bool] = True

    def __init__(self) -> None:
        self._payload: dict[str, Tensor] = {}
        self._extra: dict[str, Tensor] = {}
        self._weight = 0.0
        self._reports: list[ClientReport] = []

    def add(self, result: ClientResult) -> None:
        report = result.report
        by_weight: dict[float, dict[str, Tensor]] = {}
        for name, value in result.payload.items():
            by_weight.setdefault(report.weight_of(name), {})[name] = value
        for weight, values in by_weight.items():
            accumulate(self._payload, values, weight)
        accumulate(self._extra, result.extra, 1.0)
        self._weight += report.weight
        self._reports.append(report)

    def merge(self, partial: PartialSum) -> None:
        accumulate(self._payload, partial.payload, 1.0)
        accumulate(self._extra, partial.extra, 1.0)
        self._weight += partial.weight
        self._reports.extend(partial.reports)

    def partial(self, round_number: int) -> PartialSum:
        return PartialSum(round_number, self._payload, self._weight, self._extra, tuple(self._reports))

    def result(self) -> AggregatedUpdate | None:
        if not self._weight:
            return None
        count = len(self._reports)
        return AggregatedUpdate(self._mean(), scaled(self._extra, 1 / count), self._weight, count)

    def _mean(self) -> dict[str, Tensor]:
        """Σ w·update / Σ w of each part of the model; parts of which Σ w is 0 are left out."""
        parts = {part for report in self._reports for part in report.part_weights}
        weights = {part: sum(report.weight_of(part) for report in self._reports) for part in parts}
        mean = {}
        for name, value in self._payload.items():
            part = part_of(name, parts)
            weight = self._weight if part is None else weights[part]
            if weight:
                mean[name] = value.mul_(1 / weight)
        return mean


@rules.register("mean", summary="the weighted mean: exact and streamed, but one client can move it arbitrarily far")
@dataclass(frozen=True)
class MeanRule(AggregationRule):
    """Σ w·update / Σ w."""

    weights: Annotated[
        Literal["examples", "uniform"] | None,
        Field(description="w: the client's training images, or 1 for all; default: as the strategy's paper has it"),
    ] = None
    linear: ClassVar[bool] = True

    def aggregator(self, trainable: frozenset[str]) -> Aggregator:
        return WeightedMean()

    def weight(self, own: float, examples: int) -> float:
        return {"examples": float(examples), "uniform": 1.0, None: own}[self.weights]


def accumulate(sums: dict[str, Tensor], values: State, weight: float) -> None:
    """sums[name] += weight · values[name], in place."""
    known = [name for name in values if name in sums]
    new = [name for name in values if name not in sums]
    if known:
        torch._foreach_add_([sums[name] for name in known], [values[name] for name in known], alpha=weight)
    if new:
        sums.update(zip(new, torch._foreach_mul([values[name] for name in new], weight), strict=True))


def scaled(sums: State, factor: float) -> dict[str, Tensor]:
    """The sums times `factor`, computed in place: a copy would need the memory of a second model."""
    return {name: value.mul_(factor) for name, value in sums.items()}
