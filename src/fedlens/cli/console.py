"""The console of the commands that run something."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from fedlens.tracking.console import ConsoleTracker


@contextmanager
def terminal(again: str | None = None, resume: str = "fedlens resume") -> Iterator[ConsoleTracker]:
    """An observer on standard output that leaves the terminal as it was, and after Ctrl-C (or a signal that ends the
    command) says how to go on: by `resume` and the run's folder."""
    observer = ConsoleTracker(again=again, resume=resume, began=psutil.Process().create_time())
    try:
        yield observer
    except KeyboardInterrupt:
        with suppress(OSError):  # the terminal may be gone
            observer.interrupted()
        raise
    finally:
        with suppress(OSError):
            observer.close()


@contextmanager
def watcher() -> Iterator[ConsoleTracker]:
    """A site's screen: lines and progress, no rounds."""
    screen = ConsoleTracker()
    try:
        yield screen
    finally:
        with suppress(OSError):
            screen.close()
