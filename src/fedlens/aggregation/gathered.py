"""Base for rules that need all results at once: stores the results and iterates over them.

Memory use is that of the updates plus at most one more model. All computations work on one piece at a time, small
enough for the processor's cache.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NoReturn

import torch
from torch import Tensor

from fedlens.aggregation.base import AggregatedUpdate, AggregationRule, Aggregator
from fedlens.aggregation.mean import accumulate, scaled
from fedlens.core.types import ClientResult, PartialSum, State
from fedlens.errors import NotEnoughClients

ROOM = 20 * 2**14
"""Numbers per piece, over all updates: 1.3 MB."""


@dataclass(frozen=True)
class Updates:
    """The updates of a round, each with dense tensors. `trainable`: names of trainable tensors; the others are running
    statistics."""

    states: Sequence[dict[str, Tensor]]
    weights: Sequence[float]
    trainable: frozenset[str]


class GatheringRule(AggregationRule):
    """A rule that needs all updates of a round at once."""

    def aggregator(self, trainable: frozenset[str]) -> Aggregator:
        return Gathered(self, trainable)

    @abstractmethod
    def combine(self, updates: Updates) -> dict[str, Tensor]:
        """Aggregate all updates into one. It may free tensors in `states`, but must not write to them, and may allocate
        at most one more model."""


class Gathered(Aggregator):
    """Stores every update until the round is complete."""

    mergeable: ClassVar[bool] = False

    def __init__(self, rule: GatheringRule, trainable: frozenset[str]) -> None:
        self._rule = rule
        self._trainable = trainable
        self._states: list[dict[str, Tensor]] = []
        self._weights: list[float] = []
        self._extra: dict[str, Tensor] = {}

    def add(self, result: ClientResult) -> None:
        self._states.append({name: value.contiguous() for name, value in result.payload.items()})
        self._weights.append(result.report.weight)
        accumulate(self._extra, result.extra, 1.0)

    def merge(self, partial: PartialSum) -> NoReturn:
        raise TypeError(f"{type(self._rule).__name__} needs every result by itself")

    def partial(self, round_number: int) -> NoReturn:
        raise TypeError(f"{type(self._rule).__name__} needs every result by itself")

    def result(self) -> AggregatedUpdate | None:
        """The aggregate; None without any result.

        Raises:
            NotEnoughClients: too few results for the rule's guarantee.
        """
        count = len(self._states)
        if not count:
            return None
        if incompatibility := self._rule.incompatibility(count):
            raise NotEnoughClients(
                f"too few clients gave a usable result: aggregation.{incompatibility}. The run is kept"
            )
        delta = self._rule.combine(Updates(self._states, self._weights, self._trainable))
        return AggregatedUpdate(delta, scaled(self._extra, 1 / count), sum(self._weights), count)


def pieces(values: Sequence[Tensor], dtype: torch.dtype | None = None) -> Iterator[tuple[slice, Tensor]]:
    """Split dense tensors of one shape into pieces: yields the slice of each, and a (n, k) copy that may be
    overwritten."""
    flat = [value.view(-1) for value in values]
    size, width = len(flat[0]), max(ROOM // len(flat), 1)
    room = torch.empty(len(flat), min(width, size), dtype=dtype or flat[0].dtype)
    for start in range(0, size, width):
        place = slice(start, min(start + width, size))
        piece = room[:, : place.stop - start]
        for row, value in zip(piece.unbind(0), flat, strict=True):
            row.copy_(value[place])
        yield place, piece


def coordinatewise(states: Sequence[State], combine: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Apply `combine`, (n, k) → (k,), to the n values of every coordinate of all tensors."""
    return {name: _over_pieces([state[name] for state in states], combine) for name in sorted(states[0])}


def used_up(states: Sequence[dict[str, Tensor]], combine: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """As `coordinatewise`, but empties the states: each tensor's memory is freed before the next one is processed."""
    return {name: _over_pieces([state.pop(name) for state in states], combine) for name in sorted(states[0])}


def _over_pieces(values: Sequence[Tensor], combine: Callable[[Tensor], Tensor]) -> Tensor:
    combined = torch.empty_like(values[0])
    target = combined.view(-1)
    for place, piece in pieces(values):
        target[place] = combine(piece)
    return combined


def inner_products(states: Sequence[State], names: frozenset[str]) -> Tensor:
    """(n, n) ⟨xᵢ, xⱼ⟩ over the tensors called `names`, in float64."""
    inner = torch.zeros(len(states), len(states), dtype=torch.float64)
    for name in sorted(names):
        for _, piece in pieces([state[name] for state in states], torch.float64):
            inner.addmm_(piece, piece.t())
    return (inner + inner.t()) / 2  # exactly symmetric, so that ties do not depend on the order


def squared_distances(states: Sequence[State], names: frozenset[str]) -> Tensor:
    """(n, n) ‖xᵢ − xⱼ‖² over the tensors called `names`."""
    return distances_from(inner_products(states, names))


def distances_from(inner: Tensor) -> Tensor:
    """(n, n) ‖xᵢ − xⱼ‖² from the `inner` products (n, n) of the points."""
    squares = inner.diagonal()
    distances = (squares[:, None] + squares[None, :] - 2 * inner).clamp_min_(0)
    return distances.fill_diagonal_(0)


def distances_to(coefficients: Tensor, squared: Tensor) -> Tensor:
    """(n,) ‖v − xᵢ‖ for v = Σ cⱼ xⱼ with Σ cⱼ = 1, computed only from the points' `squared` distances (n, n): ‖v − xᵢ‖²
    = Σⱼ cⱼ dᵢⱼ² − ½ Σⱼₖ cⱼ cₖ dⱼₖ²."""
    to_each = squared @ coefficients
    return (to_each - coefficients @ to_each / 2).clamp_min_(0).sqrt_()


def mixture(states: Sequence[State], coefficients: Sequence[float]) -> dict[str, Tensor]:
    """Σ cᵢ xᵢ."""
    sums: dict[str, Tensor] = {}
    for state, coefficient in zip(states, coefficients, strict=True):
        accumulate(sums, state, coefficient)
    return sums
