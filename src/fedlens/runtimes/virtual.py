"""A virtual clock over any runtime that simulates clients: training is real, its times come from a latency model.

Events happen in the order of their virtual times; events of one time, in the order in which their tasks started. They
do not depend on when a task is really trained: its model is fixed when it starts, so several tasks are trained
together, as many as keep the runtime busy.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from fedlens.clocks.base import LatencyModel
from fedlens.core.types import (
    ClientFailure,
    ClientInfo,
    ClientReport,
    ClientResult,
    MeanMetric,
    PartialSum,
    PendingTask,
    Task,
    VirtualTime,
)
from fedlens.errors import NotEnoughClients
from fedlens.runtimes.base import Outcome, Runtime, TaskOutcome
from fedlens.runtimes.meter import Watch
from fedlens.training.tasks.base import kind_of

AHEAD = 4
"""Results that may wait in memory for their virtual time, for each task that the runtime works on at once."""


@dataclass
class _Round:
    """A synchronous batch: tasks in the order in which they finish, and the number of results that end it."""

    waiting: deque[PendingTask]
    enough: int


class VirtualRuntime:
    """Runs clients of `inner` on a virtual clock.

    clock  the latency model: how fast clients are, and when they are available
    seed   the run's
    """

    may_be_late = True

    def __init__(self, inner: Runtime, clock: LatencyModel, seed: int) -> None:
        self._time = VirtualTime()
        self._inner = inner
        self._clock = clock
        self._seed = seed
        self._round: _Round | None = None
        self._pending: list[tuple[float, int, PendingTask]] = []
        self._outcomes: dict[int, ClientResult | ClientFailure] = {}

    @property
    def virtual_time(self) -> VirtualTime | None:
        return self._time

    @virtual_time.setter
    def virtual_time(self, time: VirtualTime | None) -> None:
        self._time = time or VirtualTime()

    @property
    def watch(self) -> Watch:
        return self._inner.watch

    @watch.setter
    def watch(self, watch: Watch) -> None:
        self._inner.watch = watch

    @property
    def at_once(self) -> int:
        return self._inner.at_once

    def clients(self, at_least: int = 0) -> Sequence[ClientInfo]:
        """All clients. With `at_least`, those that are available; virtual time passes until there are so many.

        Raises:
            NotEnoughClients: so many are never available together.
        """
        everybody = self._inner.clients()
        if not at_least:
            return everybody
        self._pass(self._together(min(at_least, len(everybody))))
        return self._on(self._time.now)

    def known(self) -> Sequence[ClientInfo]:
        return self._inner.known()

    def close(self) -> None:
        self._inner.close()

    # -- synchronous: a batch lasts as long as its slowest client, or until its `enough`-th result -------------------

    def submit(self, tasks: Iterable[Task], enough: int | None = None) -> None:
        listed = list(tasks)
        if listed and kind_of(listed[0].kind).takes_time:
            pending_tasks = [self._started(task) for task in listed]
            self._round = _Round(deque(sorted(pending_tasks, key=lambda pending: pending.due)), enough or len(listed))
        else:  # other kinds of tasks take no virtual time
            self._inner.submit(listed, enough)

    def completed(self, timeout: float | None = None) -> Iterator[Outcome]:
        """The outcomes of the batch. Clients that would finish after the `enough`-th result are not trained at all."""
        batch, self._round = self._round, None
        if batch is None:
            yield from self._inner.completed(timeout)
            return
        began = end = self._time.now
        missing = batch.enough
        while missing and batch.waiting:
            coming: list[PendingTask] = []
            while batch.waiting and len(coming) < missing:
                pending = batch.waiting.popleft()
                end = max(end, pending.due)
                if self._lost(pending):
                    yield dropped(pending.task)
                else:
                    coming.append(pending)
            self._inner.submit(pending.task for pending in sorted(coming, key=lambda pending: pending.number))
            taken = {pending.task.client: pending.due - began for pending in coming}
            for outcome in self._inner.completed(timeout):
                missing -= answers(outcome)
                yield timed(outcome, taken)
        self._pass(end)

    # -- asynchronous -------------------------------------------------------------------------------------------------

    def idle(self) -> Sequence[ClientInfo]:
        busy = {pending.task.client for *_, pending in self._pending}
        return [client for client in self._on(self._time.now) if client.name not in busy]

    def start(self, tasks: Sequence[Task]) -> None:
        self.restore([self._started(task) for task in tasks])

    def pending_tasks(self) -> tuple[PendingTask, ...]:
        return tuple(sorted((pending for *_, pending in self._pending), key=lambda pending: pending.number))

    def restore(self, pending_tasks: Sequence[PendingTask]) -> None:
        for pending in pending_tasks:
            heapq.heappush(self._pending, (pending.due, pending.number, pending))
            if self._lost(pending):
                self._outcomes[pending.number] = dropped(pending.task)

    @property
    def in_flight(self) -> int:
        return len(self._pending)

    @property
    def more_now(self) -> bool:
        return bool(self._pending) and self._pending[0][0] == self._time.now

    def next_result(self, *, short: bool) -> TaskOutcome | None:
        comes_on = self._somebody_comes_on(self._time.now) if short else float("inf")
        if not self._pending or comes_on < self._pending[0][0]:
            self._pass(comes_on)
            return None
        if self._pending[0][1] not in self._outcomes:
            self._train()
        due, number, pending = heapq.heappop(self._pending)
        self._pass(due)
        return pending.task, self._outcomes.pop(number)

    def _train(self) -> None:
        """Train the pending tasks that finish next, as many as may wait in memory; each client has one pending task."""
        untrained = (entry for entry in self._pending if entry[1] not in self._outcomes)
        waiting = sum(isinstance(outcome, ClientResult) for outcome in self._outcomes.values())
        room = max(AHEAD * self.at_once - waiting, 1)
        coming = {pending.task.client: pending for *_, pending in heapq.nsmallest(room, untrained)}
        self._inner.submit(pending.task for pending in coming.values())
        for outcome in self._inner.completed():
            assert not isinstance(outcome, PartialSum)  # the tasks are `unaggregated`
            self._outcomes[coming[outcome.client].number] = outcome

    # -- the clock ----------------------------------------------------------------------------------------------------

    def _started(self, task: Task) -> PendingTask:
        number = self._time.started
        self._time = VirtualTime(self._time.now, number + 1)
        return PendingTask(task, number, self._time.now + self._clock.seconds(task.client, self._seed, number))

    def _lost(self, pending: PendingTask) -> bool:
        return self._clock.lost(pending.task.client, self._seed, pending.number)

    def _together(self, at_least: int) -> float:
        """The first time from now at which so many clients are available at once. Their number rises only when a client
        becomes available, so only those times are tried; within a cycle, each client has one."""
        moment, most = self._time.now, 0
        for _ in range(len(self._inner.clients()) + 1):
            most = max(most, len(self._on(moment)))
            if most >= at_least:
                return moment
            moment = self._somebody_comes_on(moment)
        raise NotEnoughClients(
            f"clock.available: a round needs {at_least} clients, and never are more than {most} on at the same time: "
            f"resume with federated.min_fit_clients={most}, or begin again with a larger clock.available"
        )

    def _on(self, moment: float) -> Sequence[ClientInfo]:
        return [client for client in self._inner.clients() if self._next_on(client, moment) == moment]

    def _next_on(self, client: ClientInfo, moment: float) -> float:
        return self._clock.next_on(client.name, self._seed, moment)

    def _somebody_comes_on(self, moment: float) -> float:
        """The first time after `moment` at which another client becomes available."""
        moments = (self._next_on(client, moment) for client in self._inner.clients())
        return min((later for later in moments if later > moment), default=float("inf"))

    def _pass(self, now: float) -> None:
        self._time = VirtualTime(now, self._time.started)


def answers(outcome: Outcome) -> int:
    """How many clients' results are in an outcome."""
    if isinstance(outcome, PartialSum):
        return len(outcome.reports)
    return int(isinstance(outcome, ClientResult))


def dropped(task: Task) -> ClientFailure:
    return ClientFailure(task.client, task.round, "dropped out", answered=False)


def timed(outcome: Outcome, taken: Mapping[str, float]) -> Outcome:
    """With the virtual seconds that each client has taken, as a metric of its report."""

    def told(report: ClientReport) -> ClientReport:
        return replace(report, metrics={**report.metrics, "virtual_seconds": MeanMetric(taken[report.client], 1)})

    match outcome:
        case PartialSum():
            return replace(outcome, reports=tuple(map(told, outcome.reports)))
        case ClientResult():
            return replace(outcome, report=told(outcome.report))
        case _:
            return outcome
