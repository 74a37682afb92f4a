"""Synchronous rounds: a sample of the clients starts from one model, and the server waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from fedlens.aggregation.base import Aggregator
from fedlens.core.types import ClientFailure, ClientInfo, ClientReport, ClientResult, PartialSum, Task, TaskSettings
from fedlens.errors import NotEnoughClients
from fedlens.federation.checkpoints import Checkpoint
from fedlens.federation.rounds.base import CollectedRound, PhaseTimer, RoundProtocol
from fedlens.strategies.base import RoundContext
from fedlens.training.device import one_thread

ROUND_TRIES = 3
"""Attempts at a round before the run stops because too few clients answer."""


class SynchronousRounds(RoundProtocol):
    """McMahan et al. 2017, https://arxiv.org/abs/1602.05629, Algorithm 1. With over-selection, Bonawitz et al. 2019,
    https://arxiv.org/abs/1902.01046: more clients are asked than are needed, and the first to answer make the round."""

    def resume(self, checkpoint: Checkpoint) -> None:
        if self.setup.sampler.over_selection and not self.setup.runtime.may_be_late:
            self.setup.note(
                "federated.over_selection is not used: without a clock (clock.name) no simulated client is late"
            )

    def collect(self, before: Checkpoint, number: int, timer: PhaseTimer) -> CollectedRound:
        """Collect a round; where fewer clients than the quorum answer, repeat it with those available then."""
        lost: tuple[ClientFailure, ...] = ()
        for _ in range(ROUND_TRIES):
            ctx, aggregator, reports, failures = self._attempt(before, number, timer)
            answered = len(reports) + sum(failure.answered for failure in failures)
            lost = (*lost, *failures)
            if answered >= self.setup.quorum:
                with timer.phase("aggregate"):
                    return CollectedRound.of(ctx, aggregator, reports, lost)
            self.setup.note(f"round {number}: {answered} of {self.setup.quorum} needed answers; it begins again")
        raise NotEnoughClients(
            f"round {number}: fewer than federated.quorum={self.setup.quorum} clients answered, {ROUND_TRIES} times "
            f"over ({'; '.join(sorted({failure.reason for failure in lost}))}). The run is kept: resume it later, "
            "or with a smaller federated.quorum"
        )

    def _attempt(
        self, before: Checkpoint, number: int, timer: PhaseTimer
    ) -> tuple[RoundContext, Aggregator, tuple[ClientReport, ...], tuple[ClientFailure, ...]]:
        sampler, runtime = self.setup.sampler, self.setup.runtime
        clients = runtime.clients(sampler.min_fit_clients)
        cohort = sampler.choose(number, clients, spare=runtime.may_be_late)
        ctx = self.setup.context(number, len(cohort))
        aggregator = self.setup.make_aggregator(ctx, before.kept)
        with timer.phase("broadcast"):
            enough = min(sampler.size(len(clients)), len(cohort))
            runtime.submit(self._tasks(before, cohort, ctx), enough=enough)
        with timer.phase("train"):
            reports, failures = aggregate(runtime.completed(), aggregator, self.setup.decoder(before))
        return ctx, aggregator, reports, failures

    def _tasks(self, before: Checkpoint, cohort: Sequence[ClientInfo], ctx: RoundContext) -> list[Task]:
        payload = self.setup.broadcast(before, ctx)
        settings, single = TaskSettings(lr=self.setup.lr(ctx.round)), self.setup.single(ctx.round)
        return [
            Task(
                client.name,
                ctx.round,
                "train",
                payload,
                settings,
                before.versions.get(client.name),
                unaggregated=single,
            )
            for client in cohort
        ]


def aggregate(
    outcomes: Iterator[ClientResult | PartialSum | ClientFailure],
    aggregator: Aggregator,
    decode: Callable[[ClientResult], ClientResult] = lambda result: result,
) -> tuple[tuple[ClientReport, ...], tuple[ClientFailure, ...]]:
    """Add the outcomes to `aggregator` as they come, decoded; gives the reports of the results, and the failures. Other
    processes train meanwhile: threads that wait for each other here would take their time."""
    reports: list[ClientReport] = []
    failures: list[ClientFailure] = []
    for outcome in outcomes:
        if isinstance(outcome, ClientFailure):
            failures.append(outcome)
        elif isinstance(outcome, PartialSum):
            with one_thread():
                aggregator.merge(outcome)
            reports.extend(outcome.reports)
        else:
            with one_thread():
                decoded = decode(outcome)
                aggregator.add(decoded)
            reports.append(decoded.report)
            del decoded
        del outcome  # an update's memory is free before the next one comes
    return tuple(reports), tuple(failures)
