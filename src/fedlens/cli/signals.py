"""SIGTERM and SIGHUP end a command as Ctrl-C does: `systemctl stop`, `docker stop`, a batch system's limit, a terminal
that is closed."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(KeyboardInterrupt):
    """One of `ENDING` has come. What handles Ctrl-C handles it: the run is saved, the peer told, the children ended."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def as_interrupts() -> None:
    """From now on these signals raise `Stopped` in the main thread, once. One that is ignored (SIGHUP under nohup)
    stays so."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def status(error: KeyboardInterrupt) -> int:
    """The exit status of a command that `error` has ended, as shells have it: 128 and the signal's number."""
    return 128 + (error.number if isinstance(error, Stopped) else signal.SIGINT)


def leave_output() -> None:
    """Write out what is left. Where nobody takes it any more, as with a closed terminal, it is dropped: Python would
    end with another exit status."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _stop(number: int, _frame: FrameType | None) -> None:
    for other in ENDING:  # what is being saved and ended now is not cut off by a second one
        signal.signal(other, signal.SIG_IGN)
    raise Stopped(number)
