"""Measures the seconds of one call by part."""

from __future__ import annotations

import time
from collections.abc import Callable

Progress = Callable[[str], Callable[[int, int], None]]

WORKS = {"decoding images": "images", "computing features": "features"}
"""Label of the work while it is in progress → name of its part."""


class Stopwatch:
    """Seconds by part, in the order in which the parts started. The first part is "start"."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._seconds: dict[str, float] = {}
        self._part, self._since = "start", clock()

    def part(self, name: str) -> None:
        """Start another part, or continue an earlier one."""
        now = self._clock()
        self._add(self._part, now - self._since)
        self._part, self._since = name, now

    def spent(self) -> dict[str, float]:
        """Seconds by part so far."""
        self.part(self._part)
        return dict(self._seconds)

    def timed(self, progress: Progress) -> Progress:
        """`progress`; the time of the work that it shows is counted separately from the surrounding part."""

        def begin(label: str) -> Callable[[int, int], None]:
            show, since = progress(label), self._clock()

            def tell(done: int, total: int) -> None:
                nonlocal since
                show(done, total)
                now = self._clock()
                self._add(WORKS.get(label, label), now - since)
                self._add(self._part, since - now)
                since = now

            return tell

        return begin

    def _add(self, part: str, seconds: float) -> None:
        self._seconds[part] = self._seconds.get(part, 0.0) + seconds
