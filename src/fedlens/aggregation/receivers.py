"""Receivers: what happens to a round's decoded results, one by one before they are added, and to the aggregate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from fedlens.aggregation.base import AggregatedUpdate, Aggregator
from fedlens.core.types import ClientResult, PartialSum, State, prefixed


class Receiver:
    """One part of one round at the server, as a transform or a rule has it. The defaults pass everything on.

    mergeable  workers may add up their own clients' updates after this receiver
    """

    mergeable: ClassVar[bool] = True

    def add(self, result: ClientResult) -> Iterable[ClientResult]:
        """What goes on to the next receiver for `result`: usually itself, none while it has to wait."""
        return (result,)

    def flush(self) -> Iterable[ClientResult]:
        """The results that have waited, once every result of the round is here."""
        return ()

    def finish(self, total: AggregatedUpdate) -> AggregatedUpdate:
        """The aggregated update after this receiver."""
        return total

    def kept(self) -> State:
        """What it keeps at the server for the next round; a checkpoint holds it."""
        return {}


class ReceivingAggregator(Aggregator):
    """An aggregator behind receivers."""

    def __init__(self, inner: Aggregator, receivers: Mapping[str, Receiver]) -> None:
        """`receivers`: name → receiver, in the order in which results pass them."""
        self._inner = inner
        self._names = tuple(receivers)
        self._receivers = tuple(receivers.values())
        self.mergeable = inner.mergeable and all(receiver.mergeable for receiver in self._receivers)  # type: ignore[misc]

    def add(self, result: ClientResult) -> None:
        self._pass_on(0, result)

    def merge(self, partial: PartialSum) -> None:
        self._check_mergeable()
        self._inner.merge(partial)

    def partial(self, round_number: int) -> PartialSum:
        self._check_mergeable()
        return self._inner.partial(round_number)

    def partials(self, round_number: int) -> Sequence[PartialSum]:
        self._check_mergeable()
        return self._inner.partials(round_number)

    def result(self) -> AggregatedUpdate | None:
        for place, receiver in enumerate(self._receivers):
            for waiting in receiver.flush():
                self._pass_on(place + 1, waiting)
        total = self._inner.result()
        for receiver in reversed(self._receivers):
            total = None if total is None else receiver.finish(total)
        return total

    def kept(self) -> State:
        """What the receivers keep at the server, each under its name. Asked after `result`."""
        kept: dict[str, Tensor] = {}
        for name, receiver in zip(self._names, self._receivers, strict=True):
            kept |= prefixed(name, receiver.kept())
        return kept

    def _pass_on(self, place: int, result: ClientResult) -> None:
        if place == len(self._receivers):
            self._inner.add(result)
            return
        for passed in self._receivers[place].add(result):
            self._pass_on(place + 1, passed)

    def _check_mergeable(self) -> None:
        if not self.mergeable:
            waiting = [type(receiver).__name__ for receiver in self._receivers if not receiver.mergeable]
            raise TypeError(f"{', '.join(waiting) or type(self._inner).__name__} needs every result by itself")
