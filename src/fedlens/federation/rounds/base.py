"""Round protocols: how the results of one round are collected. The coordinator does the server's step."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from fedlens.aggregation.base import AggregatedUpdate, Aggregator
from fedlens.core.types import ClientFailure, ClientReport, ClientResult, PendingTask, State
from fedlens.federation.checkpoints import Checkpoint
from fedlens.federation.sampling import Sampler
from fedlens.runtimes.base import Runtime
from fedlens.strategies.base import RoundContext, Strategy
from fedlens.transforms.base import TransformChain


@dataclass(frozen=True)
class RoundSetup:
    """The parts of a run that every protocol uses.

    lr               the clients' learning rate of a round
    quorum           fewest clients that must answer for a synchronous round to count
    trainable        names that clients train; the others are running statistics
    chain            the transforms of updates between clients and server
    make_aggregator  a new aggregator for one round's decoded results, given the state that the one before kept
    note             called with a line when a round is repeated
    single           whether a round's updates are needed one by one, whatever the rule
    """

    num_rounds: int
    sampler: Sampler
    lr: Callable[[int], float]
    quorum: int
    runtime: Runtime
    strategy: Strategy
    trainable: frozenset[str]
    make_aggregator: Callable[[RoundContext, State], Aggregator]
    chain: TransformChain = TransformChain()  # noqa: RUF009
    note: Callable[[str], None] = lambda _text: None
    single: Callable[[int], bool] = lambda _round: False

    def context(self, number: int, cohort: int) -> RoundContext:
        """The context of round `number`, in which `cohort` results are asked for."""
        return RoundContext(number, self.num_rounds, len(self.runtime.known()), cohort, self.trainable)

    def decoder(self, before: Checkpoint) -> Callable[[ClientResult], ClientResult]:
        """Decodes the results of a round that starts from `before`."""
        return lambda result: self.chain.decode(result, before.state.shared)

    def broadcast(self, before: Checkpoint, ctx: RoundContext) -> State:
        """The payload for every client of a round that starts from `before`, encoded."""
        model = self.chain.encode_model(self.strategy.broadcast(before.state, ctx))
        return {**model, **self.chain.told(before.kept)}


@dataclass(frozen=True)
class CollectedRound:
    """The results of one round as one aggregated update; `total` is None where no client gave a usable one. `kept`:
    what the aggregator keeps for the next round."""

    ctx: RoundContext
    total: AggregatedUpdate | None
    reports: tuple[ClientReport, ...]
    failures: tuple[ClientFailure, ...]
    kept: State = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        ctx: RoundContext,
        aggregator: Aggregator,
        reports: tuple[ClientReport, ...],
        failures: tuple[ClientFailure, ...],
    ) -> CollectedRound:
        """Made from an aggregator that has every result. The strategy's step leaves trainable tensors without an update
        alone, and so what it keeps for them."""
        total = aggregator.result()
        if total is not None:
            ctx = replace(ctx, trainable=ctx.trainable & total.delta.keys())
        return cls(ctx, total, reports, failures, aggregator.kept())


@dataclass
class PhaseTimer:
    """Seconds by phase of one round: broadcast, train, aggregate, evaluate, checkpoint."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time inside to the phase `name`."""
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


class RoundProtocol(ABC):
    """Collects rounds. A new protocol is a new class here, and a schedule (`fedlens.schedules`) that names it."""

    def __init__(self, setup: RoundSetup) -> None:
        self.setup = setup

    def resume(self, checkpoint: Checkpoint) -> None:
        """Continue from `checkpoint`, with the tasks that were pending then. Called once, before the first round."""
        return

    def pending(self) -> tuple[PendingTask, ...]:
        """The tasks that are still at clients between two rounds, for the checkpoint."""
        return ()

    @abstractmethod
    def collect(self, before: Checkpoint, number: int, timer: PhaseTimer) -> CollectedRound:
        """The results of round `number`, which starts from `before`.

        Raises:
            NotEnoughClients: fewer clients than the round needs, after every attempt.
            RuntimeFailure: the runtime itself has failed.
        """
