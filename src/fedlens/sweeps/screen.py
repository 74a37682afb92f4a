"""What a sweep shows: one bar for all rounds, one for each run that goes on, and a line for each that has ended."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import TaskID

from fedlens.core import clean
from fedlens.core.words import count
from fedlens.sweeps.points import Point
from fedlens.tracking.barred import say
from fedlens.tracking.bars import REDRAW_SECONDS, bars_on, take_away
from fedlens.tracking.estimate import brief, left_of, spent_and_left
from fedlens.tracking.summary import percent

SETTLED = 3
"""Rounds of a run after which it is said how long all of it will take."""


class SweepScreen:
    """rounds: of every run, by the label of its point. done: labels of those that were done before, and what is told of
    them. kind: what a run is called here."""

    def __init__(self, rounds: Mapping[str, int], done: Mapping[str, str], at_once: int, kind: str = "run") -> None:
        self.failures: dict[str, str] = {}
        self._console, self._kind = Console(highlight=False), kind
        self._width = max(map(len, rounds))
        self._all, self._finished, self._said = len(rounds), 0, set[str]()
        self._rounds = {label: number for label, number in rounds.items() if label not in done}
        self._reached: dict[str, int] = {}
        self._skipped, self._at_once, self._whole = 0, at_once, False
        self._first: tuple[float, int] | None = None
        self._began, self._drawn, self._told = time.monotonic(), 0.0, False
        self._bars = bars_on(self._console)
        say(self._console, self._plan(at_once), "bold")
        for label, figures in done.items():
            self._line(label, f"{figures}  done before")
        self._tasks: dict[str, TaskID] = {}
        self._bars.start()
        self._total = self._bars.add_task("all", total=max(sum(self._rounds.values()), 1), state="")

    def note(self, point: Point, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            say(self._console, f"{point.label}: note: {text}", "cyan")

    def began(self, point: Point, done: int) -> None:
        self._skipped += done
        self._reached[point.label] = done
        self._show(point, done, f"round {done}/{self._rounds[point.label]}")

    def round(self, point: Point, number: int, accuracy: float | None) -> None:
        self._reached[point.label] = number
        if self._first is None:
            self._first = time.monotonic() - self._began, sum(self._reached.values()) - self._skipped
        figures = f"  {percent(accuracy)}" if accuracy is not None else ""
        self._show(point, number, f"round {number}/{self._rounds[point.label]}{figures}")
        settled = number >= min(SETTLED, self._rounds[point.label])
        if not self._told and settled and (left := self._left()) is not None and len(self._rounds) > 1:
            self._told = True
            say(self._console, f"about {brief(time.monotonic() - self._began + left)} for all of it", "bold")

    def working(self, point: Point, label: str, done: int, total: int) -> None:
        self._show(point, 0, f"{label} {done:,}/{total:,}")

    def ended(self, point: Point, folder: Path | None, failure: str | None) -> None:
        assert folder is not None or failure is not None
        self.told(point.label, figures(folder) if folder and failure is None else "", failure)

    def told(self, label: str, text: str, failure: str | None = None) -> None:
        """The run has ended; `text`: what is told of it, where it did not fail."""
        if label in self._tasks:
            self._bars.remove_task(self._tasks.pop(label))
        self._reached[label], self._whole = self._rounds[label], True
        if failure is not None:
            self.failures[label] = failure
            self._line(label, "failed", "red")
            say(self._console, f"    {failure}", "red")
        else:
            self._line(label, text)
        self._draw()

    def wait(self) -> None:
        """Draw the bars again, as time goes by."""
        if time.monotonic() - self._drawn > REDRAW_SECONDS:
            self._draw()

    def close(self) -> None:
        """Remove the bars; lines may still follow."""
        take_away(self._bars)

    def _plan(self, at_once: int) -> str:
        rounds = sorted(set(self._rounds.values()))
        each = f" of {rounds[0]}{f' to {rounds[-1]}' if len(rounds) > 1 else ''} rounds" if rounds else ""
        left = count(len(self._rounds), self._kind)
        told = left if len(self._rounds) == self._all else f"{left} of {self._all}"
        return f"{told}{each}, {at_once} at a time" if rounds else f"all {count(self._all, self._kind)} are done"

    def _line(self, label: str, text: str, style: str = "") -> None:
        self._finished += 1
        left = self._left() if self._finished < self._all and self._reached else None
        rest = "" if left is None else f"  about {brief(left)} left"
        say(self._console, f"{self._finished}/{self._all}  {label:{self._width}}  {text}{rest}", style)

    def _left(self) -> float | None:
        """Seconds until the end, if all rounds that are left take as long as those that were done; None while that is
        not known, and when none is left. Until a run has ended, the time to the end of the first round is counted
        apart, once for each run: with the start of a run in it, it may be that of many rounds."""
        done, planned = (sum(rounds.values()) - self._skipped for rounds in (self._reached, self._rounds))
        if done >= planned:
            return None
        spent = time.monotonic() - self._began
        if self._whole or self._first is None:
            return left_of(done, planned, spent)
        start, first = self._first
        rounds = left_of(done - first, planned - first, spent - start)
        waiting = len(self._rounds) - len(self._reached)
        return None if rounds is None else rounds + start * waiting / self._at_once

    def _show(self, point: Point, number: int, state: str) -> None:
        if point.label not in self._tasks:
            self._tasks[point.label] = self._bars.add_task(
                clean.line(point.label), total=self._rounds[point.label], state=""
            )
        self._bars.update(self._tasks[point.label], completed=number, state=state)

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        state = f"{self._finished}/{self._all} {self._kind}s  {spent_and_left(self._drawn - self._began, self._left())}"
        self._bars.update(self._total, completed=sum(self._reached.values()), state=state)
        self._bars.refresh()


def figures(folder: Path) -> str:
    """Accuracy and time of the run in `folder`."""
    from fedlens.reports.compare import compare_runs
    from fedlens.tracking.summary import duration

    (row,) = compare_runs([folder])
    accuracy = row["accuracy"] if row["accuracy"] is not None else row["client_accuracy"]
    return f"{percent(accuracy):>7}  {duration(row['seconds']):>10}"
