"""SIGTERM and SIGHUP end a command like Ctrl-C. They are sent by `systemctl stop`, `docker stop`, a batch system's time
limit, or a closed terminal."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(KeyboardInterrupt):
    """One of the signals `ENDING` arrived. Handlers of Ctrl-C handle it too: the run is saved, the peer notified, and
    child processes are ended."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def as_interrupts() -> None:
    """Make these signals raise `Stopped` in the main thread, once. A signal that is ignored (SIGHUP under nohup)
    remains ignored."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def status(error: KeyboardInterrupt) -> int:
    """The exit status of a command that `error` ended, as in shells: 128 plus the signal number."""
    return 128 + (error.number if isinstance(error, Stopped) else signal.SIGINT)


def leave_output() -> None:
    """Flush the output. If nothing reads it any more (a closed terminal), it is dropped: otherwise Python would change
    the exit status."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _stop(number: int, _frame: FrameType | None) -> None:
    for other in ENDING:  # a second signal must not interrupt saving and shutdown
        signal.signal(other, signal.SIG_IGN)
    raise Stopped(number)
