"""Where the seconds of one call went."""

from __future__ import annotations

import time
from collections.abc import Callable

Progress = Callable[[str], Callable[[int, int], None]]

WORKS = {"decoding images": "images", "computing features": "features"}
"""Parts by what their work is called while it goes on."""


class Stopwatch:
    """Seconds by part, in the order in which the parts began. The first part is "start"."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._seconds: dict[str, float] = {}
        self._part, self._since = "start", clock()

    def part(self, name: str) -> None:
        """Another part begins, or one goes on."""
        now = self._clock()
        self._add(self._part, now - self._since)
        self._part, self._since = name, now

    def spent(self) -> dict[str, float]:
        """Seconds by part, until now."""
        self.part(self._part)
        return dict(self._seconds)

    def timed(self, progress: Progress) -> Progress:
        """`progress`, with the time of the work that it shows taken out of the part around it."""

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
