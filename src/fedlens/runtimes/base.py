"""The runtime interface: where clients run. It is all that the coordinator knows of processes, hosts and networks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

from fedlens.core.types import ClientFailure, ClientInfo, ClientResult, PartialSum, PendingTask, Task, VirtualTime
from fedlens.runtimes.meter import Watch

Outcome = ClientResult | PartialSum | ClientFailure


class Runtime(Protocol):
    """Somewhere to run clients.

    at_once      how many tasks it works on at the same time
    may_be_late  whether results can come at different times: only then does asking more clients than needed help
    watch        called from time to time with the batch's progress, by the thread that waits for it
    virtual_time where the virtual clock stands; None: there is none
    """

    watch: Watch
    virtual_time: VirtualTime | None

    @property
    def at_once(self) -> int: ...

    @property
    def may_be_late(self) -> bool: ...

    def clients(self, at_least: int = 0) -> Sequence[ClientInfo]:
        """The available clients, in a fixed order. Where clients come and go, it waits until there are `at_least`."""
        ...

    def known(self) -> Sequence[ClientInfo]:
        """All clients that were ever available, in the same order. It may be the same object as before only if nothing
        has changed."""
        ...

    def submit(self, tasks: Iterable[Task], enough: int | None = None) -> None:
        """Start a batch of tasks of one kind, synchronous ones of one round. Where clients may be late, the batch ends
        when `enough` of them have answered."""
        ...

    def completed(self, timeout: float | None = None) -> Iterator[Outcome]:
        """The outcomes of the submitted batch, in an order that is fixed where the runtime can fix it.

        Raises:
            RuntimeFailure: the runtime itself has failed, or `timeout` seconds passed.
        """
        ...

    def close(self) -> None:
        """End everything that was started. Safe to call twice."""
        ...


TaskOutcome = tuple[Task, ClientResult | ClientFailure]
"""A pending task and its outcome."""


@runtime_checkable
class AsyncRuntime(Protocol):
    """A runtime that takes and returns tasks one by one, each with a model of its own. Batches (of evaluations) may be
    run in between."""

    def idle(self) -> Sequence[ClientInfo]:
        """The available clients without a pending task, in a fixed order."""
        ...

    def start(self, tasks: Sequence[Task]) -> None:
        """Give out tasks to clients that are idle."""
        ...

    def pending_tasks(self) -> tuple[PendingTask, ...]:
        """The pending tasks, in the order of their starts."""
        ...

    def restore(self, pending_tasks: Sequence[PendingTask]) -> None:
        """Continue with the tasks that were pending when a run was stopped."""
        ...

    @property
    def in_flight(self) -> int:
        """The number of pending tasks."""
        ...

    @property
    def more_now(self) -> bool:
        """Whether another outcome arrives at the same moment."""
        ...

    def next_result(self, *, short: bool) -> TaskOutcome | None:
        """Wait for the next outcome. With `short` (fewer clients work than could), None as soon as another client may
        have become available.

        Raises:
            RuntimeFailure: the runtime itself has failed.
        """
        ...
