"""The one coordinator: rounds from a starting point to an end, over any runtime, strategy and model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from fedlens.aggregation.base import Aggregator, Total
from fedlens.aggregation.norms import all_finite, l2_norm
from fedlens.errors import NotEnoughClients, TrainingDiverged
from fedlens.federation.bookkeeping import Bookkeeping
from fedlens.federation.buffer import Buffer, Collected
from fedlens.federation.checkpoints import Checkpoint
from fedlens.federation.floors import Floors, own_majority, share
from fedlens.federation.records import ClientEvaluation, Evaluation, RoundRecord
from fedlens.federation.schedule import CohortRule, Stopping
from fedlens.federation.types import Answer, ClientFailure, ClientInfo, Partial, Report, State, Task, following
from fedlens.runtimes.base import Runtime, Timed
from fedlens.schedules.base import Asynchronous, Schedule
from fedlens.schedules.sync import Sync
from fedlens.strategies.base import RoundContext, ServerState, Strategy

Evaluate = Callable[[Checkpoint], Evaluation | None]
"""Scores a run as it stands; None where there is nothing to score it on."""

Measure = Callable[[State], Mapping[str, float]]
"""A shared model → numbers by name."""

Describe = Callable[[Total, Sequence[Report], Sequence[ClientInfo]], Mapping[str, float]]
"""A round's total, its reports, and everybody who is known → numbers by name."""

ROUND_TRIES = 3
"""How often a round is begun before the run stops for want of answers."""


@dataclass(frozen=True)
class Plan:
    """What a run does, in plain values. `lr` gives the clients' learning rate of a round."""

    num_rounds: int
    cohorts: CohortRule
    lr: Callable[[int], float]
    evaluate_every: int = 1
    evaluate_clients_every: int = 0
    quorum: int = 1
    stopping: Stopping = field(default_factory=Stopping)
    schedule: Schedule = field(default_factory=Sync)

    def due(self, every: int, round_number: int) -> bool:
        return round_number == self.num_rounds or (every > 0 and round_number % every == 0)


@dataclass
class _Clock:
    """Seconds by phase of one round."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


class Coordinator:
    """Runs rounds. Nothing here knows where clients live or which algorithm is used."""

    def __init__(
        self,
        plan: Plan,
        strategy: Strategy,
        runtime: Runtime,
        trainable: frozenset[str],
        books: Bookkeeping,
        make_aggregator: Callable[[], Aggregator],
        *,
        test: Evaluate | None = None,
        validation: Evaluate | None = None,
        measure: Measure | None = None,
        describe: Describe = lambda _total, _reports, _clients: {},
        malicious: frozenset[str] = frozenset(),
        note: Callable[[str], None] = lambda _text: None,
    ) -> None:
        """`trainable`: names that clients train; `describe` says what else to record of a round; `malicious`: clients
        that attack; `note` is told of a round that is repeated."""
        self._plan = plan
        self._strategy = strategy
        self._runtime = runtime
        self._trainable = trainable
        self._books = books
        self._make_aggregator = make_aggregator
        self._test = test
        self._validation = validation
        self._measure = measure
        self._describe = describe
        self._malicious = malicious
        self._note = note
        self._buffer: Buffer | None = None
        if isinstance(plan.schedule, Asynchronous):
            self._buffer = Buffer(plan.schedule, plan.cohorts, runtime, strategy, plan.lr)

    def run(self, checkpoint: Checkpoint) -> Checkpoint:
        """Rounds from `checkpoint` to the plan's end, or to the stopping rule's; gives the last checkpoint, on disk.

        Raises:
            NotEnoughClients, TrainingDiverged, RuntimeFailure, CheckpointError: the last whole checkpoint stays.
        """
        if isinstance(self._runtime, Timed):
            self._runtime.moment = checkpoint.moment
        if self._plan.cohorts.over_selection and not self._runtime.may_be_late:
            self._note("federated.over_selection is not used: without a clock (clock.name) no simulated client is late")
        if self._buffer:
            self._buffer.go_on(checkpoint.flights)
        while checkpoint.finished is None and checkpoint.round < self._plan.num_rounds:
            checkpoint = self._round(checkpoint)
        self._books.wait()
        return checkpoint

    def _round(self, before: Checkpoint) -> Checkpoint:
        number, clock = before.round + 1, _Clock()
        collected, ctx = self._collected(before, number, clock)
        with clock.phase("aggregate"):
            state = self._step(before.state, collected, ctx)
        after = replace(
            before,
            round=number,
            state=state,
            versions=advanced(before.versions, collected.reports),
            moment=self._runtime.moment if isinstance(self._runtime, Timed) else before.moment,
            flights=self._buffer.flights() if self._buffer else (),
        )
        with clock.phase("evaluate"):
            record, after = self._evaluated(self._record(after, before.state, collected, clock.seconds), after)
        with clock.phase("checkpoint"):
            self._books.wait()
        self._books.file(record, after, state.shared if after.progress.best_round == number else None)
        return after

    def _collected(self, before: Checkpoint, number: int, clock: _Clock) -> tuple[Collected, RoundContext]:
        """The round's answers. A round that too few clients answered is begun again, with whoever is there then."""
        if self._buffer:
            ctx = self._buffer.context(number, self._plan.num_rounds, self._trainable)
            with clock.phase("train"):
                return self._buffer.fill(before, ctx, self._make_aggregator()), ctx
        lost: tuple[ClientFailure, ...] = ()
        for _ in range(ROUND_TRIES):
            rule = self._plan.cohorts
            clients = self._runtime.clients(rule.min_fit_clients)
            cohort = rule.choose(number, clients, spare=self._runtime.may_be_late)
            ctx = RoundContext(number, self._plan.num_rounds, len(self._runtime.known()), len(cohort), self._trainable)
            with clock.phase("broadcast"):
                self._runtime.submit(self._tasks(before, cohort, ctx), enough=rule.size(len(clients)))
            with clock.phase("train"):
                aggregator = self._make_aggregator()
                reports, failures = take_in(self._runtime.completed(), aggregator)
            answered = len(reports) + sum(failure.answered for failure in failures)
            lost = (*lost, *failures)
            if answered >= self._plan.quorum:
                with clock.phase("aggregate"):
                    return Collected(aggregator.result(), reports, lost), ctx
            self._note(f"round {number}: {answered} of {self._plan.quorum} needed answers; it begins again")
        raise NotEnoughClients(
            f"round {number}: fewer than federated.quorum={self._plan.quorum} clients answered, {ROUND_TRIES} times "
            f"over ({'; '.join(sorted({failure.reason for failure in lost}))}). The run is kept: resume it later, "
            "or with a smaller federated.quorum"
        )

    def _tasks(self, before: Checkpoint, cohort: Sequence[ClientInfo], ctx: RoundContext) -> list[Task]:
        payload = self._strategy.broadcast(before.state, ctx)
        settings = {"lr": self._plan.lr(ctx.round)}
        return [
            Task(client.name, ctx.round, "train", payload, settings, before.versions.get(client.name))
            for client in cohort
        ]

    def _step(self, state: ServerState, collected: Collected, ctx: RoundContext) -> ServerState:
        if collected.total is None:
            reasons = "; ".join(sorted({failure.reason for failure in collected.failures}))
            raise TrainingDiverged(
                f"round {ctx.round}: none of the {ctx.cohort} clients returned a usable update ({reasons}). "
                f"Try a smaller optimizer.lr (now {self._plan.lr(ctx.round):g}), optimizer.clip_norm=1 or "
                "optimizer.warmup_rounds=5, and look at the data with `fedlens data show`"
            )
        after = self._strategy.step(state, collected.total, ctx)
        broken = [name for name, value in {**after.extra, **after.shared}.items() if not all_finite([value])]
        if broken:
            raise TrainingDiverged(
                f"round {ctx.round}: the server's step made numbers that are not finite, in {broken[0]}. The run is "
                "kept as it was before. Try a smaller optimizer.lr, or a smaller strategy.server_lr where the strategy "
                "has one; among sites that may lie, aggregation.name=median or another rule that tolerates lies"
            )
        return after

    def _record(
        self, after: Checkpoint, before: ServerState, collected: Collected, seconds: Mapping[str, float]
    ) -> RoundRecord:
        return RoundRecord(
            round=after.round,
            lr=self._plan.lr(after.round),
            reports=collected.reports,
            failures=collected.failures,
            update_norm=l2_norm(after.state.shared[name] - before.shared[name] for name in sorted(self._trainable)),
            bytes_down=measured(collected.reports, "bytes_down"),
            bytes_up=measured(collected.reports, "bytes_up"),
            seconds=seconds,
            virtual_seconds=after.moment.now if isinstance(self._runtime, Timed) else None,
            measures=self._describe(collected.total, collected.reports, self._runtime.known())
            if collected.total
            else {},
        )

    def _evaluated(self, record: RoundRecord, after: Checkpoint) -> tuple[RoundRecord, Checkpoint]:
        """Record and checkpoint with what the evaluations say; the test images have no say in stopping."""
        floors = Floors(self._runtime.known())
        if self._plan.due(self._plan.evaluate_every, after.round):
            more = self._measure(after.state.shared) if self._measure else {}
            record = replace(
                record,
                test=scored(self._test, after, floors),
                validation=scored(self._validation, after, floors),
                measures={**record.measures, **more},
                chance=floors.chance,
            )
        if record.validation is not None:
            progress = after.progress.after(after.round, record.validation, self._plan.stopping)
            finished = progress.verdict(record.validation, self._plan.stopping)
            after = replace(after, progress=progress, finished=finished)
        every = self._plan.evaluate_clients_every
        if every and (after.finished or self._plan.due(every, after.round)):
            record = replace(record, clients=self._at_clients(after, floors), chance=floors.chance)
        return record, after

    def _at_clients(self, after: Checkpoint, floors: Floors) -> tuple[ClientEvaluation, ...]:
        """Every client's accuracy on its own test images."""
        clients = {client.name: client for client in self._runtime.clients() if client.holds("test")}
        settings = {"lr": self._plan.lr(after.round)}
        self._runtime.submit(
            Task(name, after.round, "evaluate", after.state.shared, settings, after.versions.get(name))
            for name in clients
        )
        answers = {outcome.client: outcome for outcome in self._runtime.completed() if isinstance(outcome, Answer)}
        label = floors.label
        return tuple(
            replace(
                client_evaluation(answers[name], name in after.versions),
                malicious=name in self._malicious,
                majority=share(np.array(client.counts["test"]), label),
                own_majority=own_majority(client, "test"),
            )
            for name, client in clients.items()
            if name in answers
        )


def scored(evaluate: Evaluate | None, after: Checkpoint, floors: Floors) -> Evaluation | None:
    """What `evaluate` says, with the majority-class floor of a shared model where it gives none of its own."""
    found = evaluate(after) if evaluate else None
    if found is None or found.majority is not None:
        return found
    return replace(found, majority=floors.of_confusion(found.confusion))


def client_evaluation(answer: Answer, trained: bool) -> ClientEvaluation:
    """A client's answer to an evaluation task, as a record."""
    metrics, examples = answer.report.metrics, int(answer.report.weight)
    shared = metrics["shared.accuracy"].value if "shared.accuracy" in metrics else None
    return ClientEvaluation(answer.client, metrics["accuracy"].value, metrics["loss"].value, examples, trained, shared)


def take_in(
    outcomes: Iterator[Answer | Partial | ClientFailure], aggregator: Aggregator
) -> tuple[tuple[Report, ...], tuple[ClientFailure, ...]]:
    """Give `aggregator` a cohort's answers as they come; what was reported of them, and who gave none."""
    reports: list[Report] = []
    failures: list[ClientFailure] = []
    for outcome in outcomes:
        if isinstance(outcome, ClientFailure):
            failures.append(outcome)
        elif isinstance(outcome, Partial):
            aggregator.merge(outcome)
            reports.extend(outcome.reports)
        else:
            aggregator.add(outcome)
            reports.append(outcome.report)
        del outcome  # an update's memory is free before the next one comes
    return tuple(reports), tuple(failures)


def advanced(versions: Mapping[str, int | None], reports: Sequence[Report]) -> dict[str, int | None]:
    """The versions of the clients' private stores after these updates were counted, in their order."""
    after = dict(versions)
    for report in reports:
        after[report.client] = following(after.get(report.client)) if report.stored else None
    return after


def measured(reports: Sequence[Report], metric: str) -> int:
    """A metric's total over the reports."""
    return int(sum(report.metrics[metric].total for report in reports if metric in report.metrics))
