"""Asynchronous rounds: clients work on while the server steps with every few updates that arrive.

The coordinator's rounds are the server's steps. What differs from a synchronous round is here: tasks are given out one
by one to whoever is idle, start from the model of that moment, and come back into the buffer of another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fedlens.aggregation.base import Aggregator, Total
from fedlens.aggregation.norms import l2_norm
from fedlens.federation.checkpoints import Checkpoint
from fedlens.federation.schedule import CohortRule
from fedlens.federation.types import Answer, ClientFailure, Flight, Mean, Report, State, Task
from fedlens.runtimes.base import Flow, Runtime
from fedlens.schedules.base import Asynchronous
from fedlens.seeds import derive
from fedlens.strategies.base import RoundContext, Strategy

BARREN = 3
"""So many times the concurrency of failures in a row end a step before its buffer is full."""


@dataclass(frozen=True)
class Collected:
    """A cohort's answers, or a buffer's, as one total."""

    total: Total | None
    reports: tuple[Report, ...]
    failures: tuple[ClientFailure, ...]


@dataclass
class _Filling:
    """One round while its buffer fills. `given`: how many tasks from the newest model each client was given."""

    ctx: RoundContext
    payload: State
    before: State
    versions: dict[str, int | None]
    aggregator: Aggregator
    reports: list[Report] = field(default_factory=list)
    failures: list[ClientFailure] = field(default_factory=list)
    given: Counter[str] = field(default_factory=Counter)
    draws: int = 0
    barren: int = 0


class Buffer:
    """Keeps clients busy, and takes in what they send until there is enough for a step."""

    def __init__(
        self,
        schedule: Asynchronous,
        cohorts: CohortRule,
        runtime: Runtime,
        strategy: Strategy,
        lr: Callable[[int], float],
    ) -> None:
        """`runtime`: one in which tasks come and go one by one."""
        assert isinstance(runtime, Flow)
        self._schedule = schedule
        self._cohorts = cohorts
        self._flow: Flow = runtime
        self._runtime = runtime
        self._strategy = strategy
        self._lr = lr

    def go_on(self, flights: Sequence[Flight]) -> None:
        """Take up what was in flight when the run was stopped."""
        self._flow.take_up(flights)

    def flights(self) -> tuple[Flight, ...]:
        return self._flow.flights()

    def context(self, number: int, num_rounds: int, trainable: frozenset[str]) -> RoundContext:
        buffer = self._schedule.buffer(self._concurrency)
        return RoundContext(number, num_rounds, len(self._runtime.known()), buffer, trainable)

    @property
    def _concurrency(self) -> int:
        return self._schedule.concurrency or self._cohorts.size(len(self._runtime.known()))

    def fill(self, before: Checkpoint, ctx: RoundContext, aggregator: Aggregator) -> Collected:
        """The updates of one step. After failures without end it has fewer than the buffer holds."""
        shared = before.state.shared
        payload = self._strategy.broadcast(before.state, ctx)
        filling = _Filling(ctx, payload, shared, dict(before.versions), aggregator)
        concurrency = self._concurrency
        while len(filling.reports) < ctx.cohort and filling.barren < BARREN * concurrency:
            if not self._flow.more_now:  # of what happens at one moment, arrivals and the step come first
                self._give_out(concurrency - self._flow.in_flight, filling)
            arrival = self._flow.arrival(short=self._flow.in_flight < concurrency)
            if arrival is not None:
                self._take_in(*arrival, filling)
        return Collected(aggregator.result(), tuple(filling.reports), tuple(filling.failures))

    def _give_out(self, free: int, filling: _Filling) -> None:
        """Tasks from the newest model for as many idle clients as are `free` to be asked."""
        idle = self._flow.idle()
        count = min(free, len(idle))
        if count <= 0:
            return
        number, filling.draws = filling.ctx.round, filling.draws + 1
        generator = np.random.default_rng(derive(self._cohorts.seed, "draw", number, filling.draws))
        chosen = [idle[index].name for index in sorted(generator.choice(len(idle), count, replace=False))]
        self._flow.start([self._task(client, filling) for client in chosen])

    def _task(self, client: str, filling: _Filling) -> Task:
        number, again = filling.ctx.round, filling.given[client]
        filling.given[client] += 1
        settings = {"lr": self._lr(number)} | ({"again": float(again)} if again else {})
        return Task(client, number, "train", filling.payload, settings, filling.versions.get(client), apart=True)

    def _take_in(self, task: Task, outcome: Answer | ClientFailure, filling: _Filling) -> None:
        staleness = filling.ctx.round - task.round
        bound = self._schedule.max_staleness
        if isinstance(outcome, Answer) and bound is not None and staleness > bound:
            text = f"its update is {staleness} steps old, and schedule.max_staleness is {bound}"
            outcome = ClientFailure(task.client, task.round, text)
        if isinstance(outcome, ClientFailure):
            filling.failures.append(outcome)
            filling.barren += outcome.answered
            return
        filling.barren = 0
        trainable = filling.ctx.trainable
        payload = self._schedule.update(outcome.payload, task.payload, filling.before, staleness, trainable)
        norm = l2_norm(payload[name] for name in sorted(trainable))  # of what is added up, not of what was sent
        counted = {"staleness": Mean(staleness, 1), "update_norm": Mean(norm, 1)}
        report = replace(outcome.report, metrics={**outcome.report.metrics, **counted})
        filling.aggregator.add(replace(outcome, report=report, payload=payload))
        filling.reports.append(report)
        filling.versions[task.client] = task.version if report.stored else None
