"""Progress: bars on a terminal and in a notebook; elsewhere occasional lines about work that takes long.

The thread that reports progress redraws the bars: no other thread is started, because worker processes are forked from
this process.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from fedlens.core import clean
from fedlens.core.types import BatchProgress
from fedlens.tracking.cell_bars import CellProgress
from fedlens.tracking.estimate import Estimate, left_of, spent_and_left

REDRAW_SECONDS = 0.1
SHORT_SECONDS = 0.5
"""Work that takes less time shows no bar."""

FIRST_LINE_SECONDS, LAST_LINE_SECONDS = 10.0, 300.0
"""Without a terminal: seconds until the first line; the interval doubles with each line, up to the second value."""

BAR_WIDTH = 12


def can_draw(console: Console) -> bool:
    return console.is_jupyter or (console.is_terminal and not console.is_dumb_terminal)


def bars_on(console: Console) -> Progress:
    """Bars, each with a name and a state; nothing is drawn where nothing can be drawn over."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(BAR_WIDTH),
        TextColumn("{task.fields[state]}", markup=False),
    )
    kind = CellProgress if console.is_jupyter else Progress
    return kind(*columns, console=console, auto_refresh=False, disable=not can_draw(console))


def take_away(bars: Progress) -> None:
    """Remove the bars; lines may still follow."""
    for task in bars.task_ids:
        bars.update(task, visible=False)
    bars.refresh()
    bars.stop()


class Bars:
    """`say` prints a line above the bars."""

    def __init__(self, console: Console, say: Callable[[str], None]) -> None:
        self._say = say
        self._drawn = can_draw(console)
        self._bars = bars_on(console)
        self._bars.start()
        self._refreshed = 0.0
        self._patience = FIRST_LINE_SECONDS
        self._said = time.monotonic()
        self._num_rounds = self._done = 0
        self._began = 0.0
        self._rounds: TaskID | None = None
        self._estimate = Estimate(0, 0, 0.0)

    def work(self, label: str) -> Callable[[int, int], None]:
        """The function to call with (done, all) during the work called `label`; the work may be repeated."""
        task: TaskID | None = None
        began: float | None = None

        def show(done: int, total: int) -> None:
            nonlocal task, began
            if done >= total:
                if task is not None:
                    self._bars.remove_task(task)
                    self._bars.refresh()
                task = began = None
                return
            now = time.monotonic()
            began = now if began is None else began
            seconds = now - began
            state = spent_and_left(seconds, left_of(done, total, seconds))
            self._line_if_due(f"{label}: {done:,} of {total:,}, {state}")
            if task is None and seconds >= SHORT_SECONDS:
                self._bars.start()
                task = self._bars.add_task(clean.line(label), total=total, state="")
            if task is not None:
                self._bars.update(task, completed=done, total=total, state=f"{done:,}/{total:,}  {state}")
                self._redraw()

        return show

    def run(self, num_rounds: int, done: int) -> None:
        """The bar for the rounds, `done` of which are complete; also of a run that goes on after it was closed."""
        self._bars.start()
        self._num_rounds, self._done, self._began = num_rounds, done, time.monotonic()
        self._estimate = Estimate(num_rounds, done, self._began)
        self._rounds = self._bars.add_task(self._name(done + 1), total=num_rounds, completed=done, state="")
        self._bars.refresh()

    def round(self, number: int) -> None:
        """Count a finished round."""
        self._done, self._said = number, time.monotonic()
        self._estimate.round(number, self._said)
        if self._rounds is not None:
            self._bars.update(self._rounds, completed=number, description=self._name(number + 1), state=self._time())
            self._bars.refresh()

    def standing(self, standing: BatchProgress) -> None:
        """Show the progress of the current round."""
        if self._rounds is None:
            return
        self._estimate.standing(standing, time.monotonic())
        current = max(standing.round, self._done + 1) if not standing.label else standing.round
        share = standing.steps / standing.all_steps if standing.all_steps else standing.clients / standing.all_clients
        inside = share if not standing.label else 1.0
        self._line_if_due(f"{self._name(current)}: {_words(standing)}, {self._time()}{_waiting(standing)}")
        self._bars.update(
            self._rounds,
            completed=min(current - 1 + inside, self._num_rounds),
            description=self._name(current),
            state=f"{_short(standing)}  {self._time()}{_waiting(standing)}",
        )
        self._redraw()

    def wait(self) -> None:
        """Show that time goes by."""
        if self._rounds is not None:
            self._line_if_due(f"{self._name(self._done + 1)}: {self._time()}")
            self._bars.update(self._rounds, state=self._time())
            self._redraw()

    def close(self) -> None:
        """Remove the bars; lines may still follow."""
        take_away(self._bars)

    def _name(self, number: int) -> str:
        return f"round {min(number, self._num_rounds)}/{self._num_rounds}"

    def _time(self) -> str:
        now = time.monotonic()
        return spent_and_left(now - self._began, self._estimate.left(now))

    def _redraw(self) -> None:
        now = time.monotonic()
        if now - self._refreshed > REDRAW_SECONDS:
            self._refreshed = now
            self._bars.refresh()

    def _line_if_due(self, text: str) -> None:
        now = time.monotonic()
        if self._drawn or now - self._said < self._patience:
            return
        self._said, self._patience = now, min(2 * self._patience, LAST_LINE_SECONDS)
        self._say(text)


def _words(standing: BatchProgress) -> str:
    steps = f", {standing.steps:,} of {standing.all_steps:,} steps" if standing.all_steps else ""
    return f"{standing.label}{standing.clients} of {standing.all_clients} clients{steps}"


def _short(standing: BatchProgress) -> str:
    """The short form that fits next to a bar."""
    steps = f"  {standing.steps}/{standing.all_steps} steps" if standing.all_steps else ""
    return f"{standing.label}{standing.clients}/{standing.all_clients} clients{steps}"


def _waiting(standing: BatchProgress) -> str:
    return f"; waiting for {clean.line(', '.join(standing.waiting))}" if standing.waiting else ""
