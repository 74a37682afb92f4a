"""What a cell of a notebook shows of a run: a bar and a curve while it runs, then its headline. There is no line for
each round."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from fedlens.core.clean import escape
from fedlens.core.records import RoundRecord
from fedlens.tracking.barred import Barred
from fedlens.tracking.card import card
from fedlens.tracking.console import ConsoleTracker
from fedlens.tracking.curve import Curve
from fedlens.tracking.findings import Finding
from fedlens.tracking.metrics import line_of, read_metrics
from fedlens.tracking.next_steps import resuming_in_python
from fedlens.tracking.observer import Observer
from fedlens.tracking.rounds import loss
from fedlens.tracking.run_dir import RunDir
from fedlens.tracking.summary import percent

if TYPE_CHECKING:
    from IPython.display import DisplayHandle

REDRAW_SECONDS = 2.0
"""Least time between two drawings of the curve: one takes about a tenth of a second."""

MOST_FAILURES = 5
"""Failures of clients that get a line of their own."""


def screen() -> Observer:
    """The observer for people: in the cell of a notebook (Jupyter, Colab, VS Code), else on the console."""
    console = Console(highlight=False)
    return NotebookTracker(console) if console.is_jupyter else ConsoleTracker(console)


class NotebookTracker(Barred):
    """Observer that shows a run in a cell."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__(console)
        self._curve = Curve()
        self._num_rounds = self._failures = 0
        self._resume = ""
        self._drawn = 0.0
        self._last: RoundRecord | None = None
        self._output: DisplayHandle | None = None

    def start(self, header: Mapping[str, str], num_rounds: int, done: int) -> None:
        """Show what runs, a bar, and the curve of the rounds that are done."""
        from IPython.display import HTML, display

        self._num_rounds = num_rounds
        folder = header.get("folder", "")
        self._say("\n".join(f"{name:{max(map(len, header))}}  {value}" for name, value in header.items()))
        if done:
            self._curve = Curve(read_metrics(RunDir(Path(folder)).metrics, done))
        self._resume = resuming_in_python(folder)
        self._bars.run(num_rounds, done)
        self._output = display(HTML(self._html()), display_id=True)

    def note(self, text: str) -> None:
        self._say(f"note: {text}", "cyan")

    def round(self, record: RoundRecord) -> None:
        """Move the bar, and draw the curve if the last drawing is old enough."""
        self._last = record
        self._curve.add(line_of(record))
        self._name_failures(record)
        self._bars.round(record.round)
        if time.monotonic() - self._drawn >= REDRAW_SECONDS:
            self._draw()

    def finish(self, folder: Path, spent: Mapping[str, float], findings: Sequence[Finding]) -> None:
        """Replace the curve by the run's headline, curve, findings and links."""
        self._replace(card(folder, findings))

    def close(self) -> None:
        """Remove the bar, and draw the curve with all rounds, also of a run that was stopped."""
        super().close()
        self._draw()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        self._replace(self._html())

    def _replace(self, text: str) -> None:
        from IPython.display import HTML

        if self._output is not None:
            self._output.update(HTML(text))

    def _html(self) -> str:
        """The curve, the figures of the last round, and how to resume the run after the kernel was interrupted."""
        words = [] if self._last is None else [_figures(self._last, self._num_rounds)]
        if self._failures:
            words.append(f"{self._failures} failed client tasks")
        words.append(f"if it is stopped, resume it with {self._resume}")
        return f"{self._curve.picture(self._num_rounds)}<p>{escape(' · '.join(words))}</p>"

    def _name_failures(self, record: RoundRecord) -> None:
        for failure in record.failures:
            self._failures += 1
            if self._failures <= MOST_FAILURES:
                self._say(f"round {record.round}: {failure.client}: {failure.reason}", "yellow")
            if self._failures == MOST_FAILURES:
                self._say("further failures are counted below, and listed in the report", "yellow")


def _figures(record: RoundRecord, num_rounds: int) -> str:
    """ "round 3 of 12 · training loss 0.5312 · test 81.2 %"."""
    test = [f"test {percent(record.test.accuracy)}"] if record.test else []
    return " · ".join([f"round {record.round} of {num_rounds}", f"training loss {loss(record.train_loss)}", *test])
