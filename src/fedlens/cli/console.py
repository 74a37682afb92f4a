"""The console of the commands that run something."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fedlens.tracking.console import ConsoleTracker


@contextmanager
def terminal(again: str | None = None) -> Iterator[ConsoleTracker]:
    """An observer on standard output that leaves the terminal as it was, and after Ctrl-C says how to go on."""
    observer = ConsoleTracker(again=again)
    try:
        yield observer
    except KeyboardInterrupt:
        observer.interrupted()
        raise
    finally:
        observer.close()
