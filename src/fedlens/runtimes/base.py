"""The runtime seam: where clients run. The coordinator sees nothing else of processes, hosts or networks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from fedlens.federation.types import Answer, ClientFailure, ClientInfo, Partial, Task

Outcome = Answer | Partial | ClientFailure


class Runtime(Protocol):
    """Somewhere to run clients."""

    def clients(self) -> Sequence[ClientInfo]:
        """Who can be asked, in a fixed order."""
        ...

    def submit(self, tasks: Iterable[Task]) -> None:
        """Start a batch of tasks of one round and one kind."""
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
