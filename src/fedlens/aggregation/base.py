"""How a round's answers become one total: a stream that can be shared out among workers and merged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from fedlens.core.registry import Registry
from fedlens.core.types import ClientResult, PartialSum, State


@dataclass(frozen=True)
class AggregatedUpdate:
    """A cohort's combined update.

    delta   what the strategy steps with (for the mean: Σ w·update / Σ w)
    extra   Σ extra / count
    weight  Σ w
    count   clients in it
    agreement  how far the updates agree, where that was asked for, by name
    """

    delta: State
    extra: State
    weight: float
    count: int
    agreement: Mapping[str, float] = field(default_factory=dict)


class Aggregator(ABC):
    """Takes in answers one by one, keeps as little as it can, and gives the total."""

    mergeable: ClassVar[bool]
    """True: workers may add up their own clients and send a `Partial`. False: every answer is needed by itself."""

    @abstractmethod
    def add(self, answer: ClientResult) -> None:
        """Take in one client's answer."""

    @abstractmethod
    def merge(self, partial: PartialSum) -> None:
        """Take in one worker's sum."""

    @abstractmethod
    def partial(self, round_number: int) -> PartialSum:
        """What was taken in so far, to be merged elsewhere."""

    @abstractmethod
    def result(self) -> AggregatedUpdate | None:
        """The total; None when nothing was taken in. Called once, at the end: the total may be made of the sums."""

    def kept(self) -> State:
        """What has to be there again in the next round, asked after `result`; a checkpoint holds it."""
        return {}


class AggregationRule(ABC):
    """One way to combine updates. The dataclass' fields are its configuration keys under `aggregation`."""

    linear: ClassVar[bool] = False
    """True: the total is the weighted mean, on which strategies that weigh or rescale updates rely."""

    @abstractmethod
    def aggregator(self, trainable: frozenset[str]) -> Aggregator:
        """A fresh stream for one round's answers. `trainable`: the others are running statistics."""

    def incompatibility(self, cohort: int) -> str | None:
        """Why it cannot work with `cohort` answers, beginning with the key that says so ("f = 4: …"); None: it can."""
        return None


rules: Registry[AggregationRule] = Registry("aggregation rule", "fedlens.aggregation")
