"""A client's sign of life: a file in its state folder, whose modification time is that of the last beat.

The client's own loop beats: while it joins, while it waits for messages or for its worker, and with every call to the
server. So the file tells that the loop goes on, and not only that there is a process.
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from pathlib import Path

BEAT_SECONDS = 5.0
"""The file is touched at most so often."""

LIMIT_SECONDS = 150.0
"""A client without a beat for so long hangs. Its longest wait between two beats is a part of a message, 120 s."""

_NAME = "pulse"


class Pulse:
    """Beats of the client whose state is in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / _NAME
        self._last = -math.inf

    def beat(self) -> None:
        """Called as often as one likes. A file that cannot be written is old for who looks, and no reason to end."""
        now = time.monotonic()
        if now - self._last >= BEAT_SECONDS:
            self._last = now
            with suppress(OSError):
                self._file.touch()

    def stop(self) -> None:
        """The client has ended."""
        with suppress(OSError):
            self._file.unlink()


def silence(folder: Path) -> float | None:
    """Seconds since the last beat of the client whose state is in `folder`; None: no client runs there, or it may not
    be seen."""
    try:
        return max(0.0, time.time() - (folder / _NAME).stat().st_mtime)
    except OSError:
        return None


def beating(states: Path) -> list[Path]:
    """The state folders in `states` whose client has left a beat."""
    return sorted(file.parent for file in states.glob(f"*/{_NAME}"))
