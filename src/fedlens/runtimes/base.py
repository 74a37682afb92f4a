"""The runtime seam: where clients run. The coordinator sees nothing else of processes, hosts or networks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from fedlens.federation.types import Answer, ClientFailure, ClientInfo, Partial, Task

Outcome = Answer | Partial | ClientFailure


class Runtime(Protocol):
    """Somewhere to run clients."""

    def clients(self, at_least: int = 0) -> Sequence[ClientInfo]:
        """Who can be asked, in a fixed order. Where clients come and go, it waits until there are `at_least`."""
        ...

    def known(self) -> Sequence[ClientInfo]:
        """Everybody who has ever been there, in the same order."""
        ...

    def submit(self, tasks: Iterable[Task], enough: int | None = None) -> None:
        """Start a batch of tasks of one round and one kind. Where clients may be late, the batch ends when `enough` of
        them have answered."""
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
