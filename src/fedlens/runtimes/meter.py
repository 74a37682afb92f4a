"""Progress of workers, as numbers in shared memory that another process reads without a message.

A step costs one addition in shared memory; reading it does not change what is trained.
"""

from __future__ import annotations

import time
from collections.abc import Callable, MutableSequence, Sequence

from fedlens.core.types import BatchProgress, Task
from fedlens.training.tasks.base import kind_of

CELLS = 3
"""Clients done, steps done, steps in all."""

LOOK_SECONDS = 0.25
"""How often to look while a batch runs."""

Watch = Callable[[BatchProgress], None]


def nobody(_standing: BatchProgress) -> None:
    """A watcher that ignores progress."""


class Meter:
    """A worker's counters. Only this worker writes `cells`; `changed` is called after every change, in its process."""

    def __init__(self, cells: MutableSequence[int] | None = None, changed: Callable[[], None] = lambda: None) -> None:
        self.cells = [0] * CELLS if cells is None else cells
        self._changed = changed
        self._planned: list[int] = []
        self._factor = 1.0
        self._before = 0

    def begin(self, planned: Sequence[int]) -> None:
        """Start a share. `planned`: the most steps of each of its clients."""
        self._planned = [round(self._factor * steps) for steps in planned]
        self._before = 0
        self.cells[0] = self.cells[1] = 0
        self.cells[2] = sum(self._planned)

    def step(self) -> None:
        """Count one gradient."""
        self.cells[1] += 1
        self._changed()

    def clients(self, count: int = 1) -> None:
        """Count finished clients. The steps they really took give a better estimate for the others, because some
        methods plan more than they need."""
        planned, taken = sum(self._planned[:count]), self.cells[1] - self._before
        del self._planned[:count]
        if planned and taken and taken != planned:
            change = taken / planned
            self._factor *= change
            self._planned = [round(change * steps) for steps in self._planned]
        self._before = self.cells[1]
        self.cells[0] += count
        self.cells[2] = self._before + sum(self._planned)
        self._changed()


def standing(tasks: Sequence[Task], cells: Sequence[Sequence[int]]) -> BatchProgress:
    """Progress of a batch, over all workers."""
    clients, steps, planned = (sum(of_one[index] for of_one in cells) for index in range(CELLS))
    return BatchProgress(tasks[0].round, kind_of(tasks[0].kind).label, clients, len(tasks), steps, max(planned, steps))


class Seldom:
    """Calls `action` at most once in `seconds`; for the first time after that long."""

    def __init__(self, action: Callable[[], None], seconds: float = LOOK_SECONDS) -> None:
        self._action = action
        self._seconds = seconds
        self._last = time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self._last >= self._seconds:
            self._last = time.monotonic()
            self._action()
