"""Aggregation of a round's results: a stream that several workers can compute in parts, which are then merged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from fedlens.core.registry import Registry
from fedlens.core.types import ClientResult, PartialSum, State


@dataclass(frozen=True)
class AggregatedUpdate:
    """The aggregated update of a cohort.

    delta   the update for the strategy's step (for the mean: Σ w·update / Σ w); without the tensors of which Σ w is 0
    extra   Σ extra / count
    weight  Σ w
    count   the number of clients
    measures  what else is to be recorded of the aggregation, by name
    """

    delta: State
    extra: State
    weight: float
    count: int
    measures: Mapping[str, float] = field(default_factory=dict)


class Aggregator(ABC):
    """Receives results one by one, stores as little as possible, and computes the aggregate."""

    mergeable: ClassVar[bool]
    """True: workers may aggregate their own clients and send a `PartialSum`. False: every single result is needed."""

    @abstractmethod
    def add(self, result: ClientResult) -> None:
        """Add one client's result."""

    @abstractmethod
    def merge(self, partial: PartialSum) -> None:
        """Add one worker's partial sum."""

    @abstractmethod
    def partial(self, round_number: int) -> PartialSum:
        """The sum so far, to be merged by another aggregator."""

    def partials(self, round_number: int) -> Sequence[PartialSum]:
        """The same as several sums, where the other aggregator has to tell them apart."""
        return [self.partial(round_number)]

    @abstractmethod
    def result(self) -> AggregatedUpdate | None:
        """The aggregate; None without any result. Called once, at the end: it may reuse the memory of the sums."""

    def kept(self) -> State:
        """State for the next round, read after `result`; stored in checkpoints."""
        return {}


class AggregationRule(ABC):
    """One way to aggregate updates. The fields of the dataclass are its configuration keys under `aggregation`."""

    linear: ClassVar[bool] = False
    """True: the aggregate is the weighted mean, as strategies that weight or rescale updates require."""

    @abstractmethod
    def aggregator(self, trainable: frozenset[str]) -> Aggregator:
        """A new aggregator for one round's results. `trainable`: names of trainable tensors; the others are running
        statistics."""

    def weight(self, own: float, examples: int) -> float:
        """The weight of a client's update. `own`: what the strategy gives it; `examples`: the client's training
        images."""
        return own

    def incompatibility(self, cohort: int, /) -> str | None:
        """Why the rule cannot work with `cohort` results: a line that starts with its key at fault ("f = 4: …"); None
        if it can."""
        return None


rules: Registry[AggregationRule] = Registry("aggregation rule", "fedlens.aggregation")
