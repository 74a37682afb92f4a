"""Asynchronous rounds: clients work on while the server steps with every few updates that arrive.

A round is one step of the server. Tasks are given out one by one to idle clients and start from the newest model; their
results may be counted in a later round than the one they started in.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from fedlens.aggregation.base import Aggregator
from fedlens.aggregation.norms import l2_norm
from fedlens.core.seeds import derive
from fedlens.core.types import (
    ClientFailure,
    ClientReport,
    ClientResult,
    MeanMetric,
    PendingTask,
    State,
    Task,
    TaskSettings,
)
from fedlens.federation.checkpoints import Checkpoint
from fedlens.federation.rounds.base import CollectedRound, PhaseTimer, RoundProtocol, RoundSetup
from fedlens.runtimes.base import AsyncRuntime
from fedlens.strategies.base import RoundContext

MOST_FAILURES = 3
"""A round ends before its buffer is full after this many failures in a row, times the concurrency."""


class BufferSchedule(Protocol):
    """How many updates make a step, and what a stale one is worth; see `schedules.base.Asynchronous`."""

    concurrency: int | None
    max_staleness: int | None

    def buffer(self, concurrency: int) -> int: ...

    def update(
        self, update: State, base: State, current: State, staleness: int, trainable: frozenset[str]
    ) -> State: ...


@dataclass
class _Filling:
    """One round while its buffer fills. `given`: how many tasks from the newest model each client was given."""

    ctx: RoundContext
    payload: State
    before: State
    versions: dict[str, int | None]
    aggregator: Aggregator
    reports: list[ClientReport] = field(default_factory=list)
    failures: list[ClientFailure] = field(default_factory=list)
    given: Counter[str] = field(default_factory=Counter)
    draws: int = 0
    failed_in_a_row: int = 0


class BufferedRounds(RoundProtocol):
    """Keeps clients busy, and collects their updates until there are enough for a step."""

    def __init__(self, setup: RoundSetup, schedule: BufferSchedule) -> None:
        super().__init__(setup)
        assert isinstance(setup.runtime, AsyncRuntime)
        self._runtime: AsyncRuntime = setup.runtime
        self._schedule = schedule

    def resume(self, checkpoint: Checkpoint) -> None:
        self._runtime.restore(checkpoint.pending_tasks)

    def pending(self) -> tuple[PendingTask, ...]:
        return self._runtime.pending_tasks()

    def collect(self, before: Checkpoint, number: int, timer: PhaseTimer) -> CollectedRound:
        """The updates of one step. After many failures in a row it has fewer than the buffer holds."""
        ctx = self.setup.context(number, self._schedule.buffer(self._concurrency))
        with timer.phase("train"):
            return self._filled(before, ctx)

    @property
    def _concurrency(self) -> int:
        return self._schedule.concurrency or self.setup.sampler.size(len(self.setup.runtime.known()))

    def _filled(self, before: Checkpoint, ctx: RoundContext) -> CollectedRound:
        aggregator = self.setup.make_aggregator(ctx, before.kept)
        payload = self.setup.broadcast(before, ctx)
        filling = _Filling(ctx, payload, before.state.shared, dict(before.versions), aggregator)
        concurrency = self._concurrency
        while len(filling.reports) < ctx.cohort and filling.failed_in_a_row < MOST_FAILURES * concurrency:
            if not self._runtime.more_now:  # at one virtual time, results and the step come first
                self._give_out(concurrency - self._runtime.in_flight, filling)
            arrival = self._runtime.next_result(short=self._runtime.in_flight < concurrency)
            if arrival is not None:
                self._take_in(*arrival, filling)
        return CollectedRound.of(ctx, aggregator, tuple(filling.reports), tuple(filling.failures))

    def _give_out(self, free: int, filling: _Filling) -> None:
        """Give tasks from the newest model to at most `free` idle clients, drawn at random."""
        idle = self._runtime.idle()
        count = min(free, len(idle))
        if count <= 0:
            return
        number, filling.draws = filling.ctx.round, filling.draws + 1
        generator = np.random.default_rng(derive(self.setup.sampler.seed, "draw", number, filling.draws))
        chosen = [idle[index].name for index in sorted(generator.choice(len(idle), count, replace=False))]
        self._runtime.start([self._task(client, filling) for client in chosen])

    def _task(self, client: str, filling: _Filling) -> Task:
        number, again = filling.ctx.round, filling.given[client]
        filling.given[client] += 1
        settings = TaskSettings(lr=self.setup.lr(number), repeat=again)
        return Task(client, number, "train", filling.payload, settings, filling.versions.get(client), unaggregated=True)

    def _take_in(self, task: Task, outcome: ClientResult | ClientFailure, filling: _Filling) -> None:
        staleness = filling.ctx.round - task.round
        bound = self._schedule.max_staleness
        if isinstance(outcome, ClientResult) and bound is not None and staleness > bound:
            text = f"its update is {staleness} steps old, and schedule.max_staleness is {bound}"
            outcome = ClientFailure(task.client, task.round, text)
        if isinstance(outcome, ClientFailure):
            filling.failures.append(outcome)
            filling.failed_in_a_row += outcome.answered
            return
        filling.failed_in_a_row = 0
        trainable = filling.ctx.trainable
        outcome = self.setup.chain.decode(outcome, filling.before)
        base = self.setup.chain.decode_model(task.payload)
        payload = self._schedule.update(outcome.payload, base, filling.before, staleness, trainable)
        norm = l2_norm(payload[name] for name in sorted(trainable))  # of what is added up, not of what was sent
        counted = {"staleness": MeanMetric(staleness, 1), "update_norm": MeanMetric(norm, 1)}
        report = replace(outcome.report, metrics={**outcome.report.metrics, **counted})
        filling.aggregator.add(replace(outcome, report=report, payload=payload))
        filling.reports.append(report)
        filling.versions[task.client] = task.version if report.stored else None
