"""The runtime seam: where clients run. The coordinator sees nothing else of processes, hosts or networks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

from fedlens.core.types import ClientFailure, ClientInfo, ClientResult, PartialSum, PendingTask, Task, VirtualTime
from fedlens.runtimes.meter import Watch

Outcome = ClientResult | PartialSum | ClientFailure


class Runtime(Protocol):
    """Somewhere to run clients.

    at_once      how many tasks it works on at the same time
    may_be_late  whether some answers can come later than others: only then is it of use to ask more clients than needed
    watch        told now and then how far the batch is, by the thread that waits for it
    virtual_time where the virtual clock stands; None: there is none
    """

    watch: Watch
    virtual_time: VirtualTime | None

    @property
    def at_once(self) -> int: ...

    @property
    def may_be_late(self) -> bool: ...

    def clients(self, at_least: int = 0) -> Sequence[ClientInfo]:
        """Who can be asked, in a fixed order. Where clients come and go, it waits until there are `at_least`."""
        ...

    def known(self) -> Sequence[ClientInfo]:
        """Everybody who has ever been there, in the same order."""
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
"""A task that was in flight, and what came of it."""


@runtime_checkable
class AsyncRuntime(Protocol):
    """A runtime in which tasks come and go one by one, each with a model of its own. Batches (of evaluations) may be
    run in between."""

    def idle(self) -> Sequence[ClientInfo]:
        """Who is there and has no task in flight, in a fixed order."""
        ...

    def start(self, tasks: Sequence[Task]) -> None:
        """Give out tasks to clients that are idle."""
        ...

    def pending_tasks(self) -> tuple[PendingTask, ...]:
        """What is in flight, in the order of the starts."""
        ...

    def restore(self, pending_tasks: Sequence[PendingTask]) -> None:
        """Go on with what was in flight when a run was stopped."""
        ...

    @property
    def in_flight(self) -> int:
        """How many tasks are in flight."""
        ...

    @property
    def more_now(self) -> bool:
        """Whether something else arrives at this very moment."""
        ...

    def next_result(self, *, short: bool) -> TaskOutcome | None:
        """The next outcome; waits for it. None, when `short` of clients: others may be there now.

        Raises:
            RuntimeFailure: the runtime itself has failed.
        """
        ...
