"""Console output of commands that run something."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from fedlens.tracking.console import ConsoleTracker


@contextmanager
def terminal(again: str | None = None, resume: str = "fedlens resume") -> Iterator[ConsoleTracker]:
    """An observer on standard output that restores the terminal at the end. After Ctrl-C (or a signal that ends the
    command) it shows how to resume: with `resume` and the run's folder."""
    observer = ConsoleTracker(again=again, resume=resume, began=psutil.Process().create_time())
    try:
        yield observer
    except KeyboardInterrupt:
        with suppress(OSError):  # the terminal may be closed
            observer.interrupted()
        raise
    finally:
        with suppress(OSError):
            observer.close()


@contextmanager
def watcher() -> Iterator[ConsoleTracker]:
    """The observer of a site: lines and progress, without rounds."""
    screen = ConsoleTracker()
    try:
        yield screen
    finally:
        with suppress(OSError):
            screen.close()
