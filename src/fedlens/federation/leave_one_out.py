"""Leave-one-out: what each update of a round does to the accuracy on validation images.

The contribution of client i is the accuracy of the model that the server makes of all updates, less that of the model
that it makes of all others: above 0 its update helps, below 0 the model would be better without it. Accuracy, because
the loss misleads: updates trained on random labels make a model less sure of itself, which lowers its loss.

This is Cook's deletion of one observation (1977), for the participants of a federation: Wang, Dang, Zhou 2019,
https://arxiv.org/abs/1909.08525; here of one round, without training again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NoReturn

from fedlens.aggregation.base import AggregatedUpdate, Aggregator
from fedlens.core.types import ClientResult, PartialSum, State
from fedlens.errors import NotEnoughClients
from fedlens.federation.rounds.base import CollectedRound
from fedlens.strategies.base import RoundContext, ServerState, Strategy

Accuracy = Callable[[ServerState], float | None]
"""Of a model on the validation images; None where there are none."""


class LeaveOneOut:
    """Keeps the updates of every `every`-th round (0: of none), and aggregates them again without each."""

    def __init__(self, every: int, make: Callable[[RoundContext, State], Aggregator], strategy: Strategy) -> None:
        """`make`: a new aggregator for one round's decoded results, given the state that the one before kept."""
        self._every = every
        self._make = make
        self._strategy = strategy
        self._kept: State = {}
        self._results: list[ClientResult] = []

    def due(self, round_number: int) -> bool:
        return self._every > 0 and round_number % self._every == 0

    def aggregator(self, ctx: RoundContext, kept: State) -> Aggregator:
        """A new aggregator for a round; where it is due, one that keeps what it adds."""
        inner = self._make(ctx, kept)
        if not self.due(ctx.round):
            return inner
        self._kept, self._results = kept, []
        return _Keeping(inner, self._results)

    def contributions(
        self, before: ServerState, collected: CollectedRound, whole: float, accuracy: Accuracy
    ) -> dict[str, float]:
        """The contribution of each client, where it can be told: a rule may need more updates than are left. `whole`:
        the accuracy of the model of all."""
        found = {}
        for place, result in enumerate(self._results):
            rest = self._step(before, collected, [*self._results[:place], *self._results[place + 1 :]])
            without = None if rest is None else accuracy(rest)
            if without is not None:
                found[result.client] = whole - without
        return found

    def forget(self) -> None:
        """The round's updates are not needed any longer."""
        self._results = []

    def _step(self, before: ServerState, collected: CollectedRound, results: list[ClientResult]) -> ServerState | None:
        """The server's state after the round, had there been these results alone; None where they are too few."""
        aggregator = self._make(collected.ctx, self._kept)
        for result in results:
            aggregator.add(result)
        try:
            rest = CollectedRound.of(collected.ctx, aggregator, tuple(result.report for result in results), ())
        except NotEnoughClients:
            return None
        return None if rest.total is None else self._strategy.step(before, rest.total, rest.ctx)


class _Keeping(Aggregator):
    """`inner`, with a list of what was added."""

    mergeable: ClassVar[bool] = False

    def __init__(self, inner: Aggregator, results: list[ClientResult]) -> None:
        self._inner = inner
        self._results = results

    def add(self, result: ClientResult) -> None:
        self._results.append(result)
        self._inner.add(result)

    def merge(self, partial: PartialSum) -> NoReturn:
        raise TypeError("leaving one out needs every result by itself")

    def partial(self, round_number: int) -> NoReturn:
        raise TypeError("leaving one out needs every result by itself")

    def result(self) -> AggregatedUpdate | None:
        return self._inner.result()

    def kept(self) -> State:
        return self._inner.kept()
