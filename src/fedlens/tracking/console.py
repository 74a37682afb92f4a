"""Terminal output of a run: its header, a progress bar, a table row per round, the result, and advice.

Without a terminal (a log file, CI) the same output is plain, unwrapped lines. On a terminal, lines are wrapped between
words. The bar is redrawn on events, without a thread: worker processes are forked from this process.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from fedlens.core import clean
from fedlens.core.records import RoundRecord
from fedlens.tracking.barred import Barred
from fedlens.tracking.findings import Finding, problems
from fedlens.tracking.metrics import line_of, read_metrics
from fedlens.tracking.next_steps import commands, from_python, next_commands, resuming
from fedlens.tracking.result import result_lines
from fedlens.tracking.rounds import RoundTable, Row
from fedlens.tracking.run_dir import RunDir, configuration
from fedlens.tracking.summary import duration, is_personal
from fedlens.tracking.wording import basis

_MOST_FAILURES = 5


class ConsoleTracker(Barred):
    """Observer that shows a run. `again`: the command that started it, for the advice at the end; default: a command
    that uses the configuration in the folder."""

    def __init__(
        self,
        console: Console | None = None,
        again: str | None = None,
        resume: str = "fedlens resume",
        began: float | None = None,
    ) -> None:
        """`began`: start of the call, in seconds since 1970, if earlier than the run: importing libraries takes
        time."""
        super().__init__(console)
        self._again = again
        self._resume = resume
        self._began = began
        self._folder = ""
        self._num_rounds = 0
        self._round = 0
        self._table: RoundTable | None = None

    def start(self, header: Mapping[str, str], num_rounds: int, done: int) -> None:
        """Show the header, and the bar for the rounds, `done` of which are complete."""
        self._folder, self._num_rounds, self._round = header.get("folder", ""), num_rounds, done
        self._lines(header)
        if done:
            self._say(f"going on after round {done}")
        self._bars.run(num_rounds, done)

    def note(self, text: str) -> None:
        self._say(f"note: {text}", "cyan")

    def round(self, record: RoundRecord) -> None:
        if self._table is None:
            self._begin(line_of(record))
        self._row(Row.of_record(record))

    def line(self, line: Mapping[str, Any]) -> None:
        """As `round`, of a line of the metrics file."""
        if self._table is None:
            self._begin(line)
        self._row(Row.of_line(line))

    def _begin(self, line: Mapping[str, Any]) -> None:
        """What the accuracies are measured on, and the header."""
        self._lines(_without_learning(line, RunDir(Path(self._folder)).unit))
        self._table = RoundTable(self._num_rounds, Row.of_line(line))
        self._say(self._table.header(), "bold")

    def _row(self, row: Row) -> None:
        """Print one row, and a line for each failed client."""
        assert self._table is not None
        self._round = row.round
        self._say(self._table.row(row), "yellow" if row.failures else "")
        for client, reason in row.failures[:_MOST_FAILURES]:
            self._say(f"    {client}: {reason}", "yellow")
        if len(row.failures) > _MOST_FAILURES:
            self._say(f"    and {len(row.failures) - _MOST_FAILURES} more", "yellow")
        self._bars.round(row.round)

    def wait(self) -> None:
        """Show that time goes by."""
        self._bars.wait()

    def finish(self, folder: Path, spent: Mapping[str, float], findings: Sequence[Finding]) -> None:
        """Print the result, its folder, the two strongest findings, and three commands for the next steps. `spent` may
        be empty: seconds of another process."""
        self.close()
        run = RunDir(folder)
        metrics, config = read_metrics(run.metrics), configuration(run)
        lines = result_lines(metrics, run, is_personal(config))
        if spent and self._began is not None:
            before = time.time() - self._began - sum(spent.values())
            spent = {"start": spent.get("start", 0.0) + before} | {key: spent[key] for key in spent if key != "start"}
        if spent:
            lines["this call"] = split_time(spent)
        again = "" if from_python(config) else self._again or f"fedlens run {shlex.quote(str(run.config))}"
        limits = problems(findings, commands(again, str(folder), self._resume))
        if self._console.is_terminal:
            self._console.print(Rule("Result", style="yellow" if limits else "green", align="left"))
        self._lines(lines)
        for line in limits:
            self._say(line, "yellow")
        self._say("Next:")
        for command in next_commands(folder, again):  # not wrapped, so that they can be copied
            self._console.print(Text(clean.block(f"  {command}")), soft_wrap=True)

    def interrupted(self) -> None:
        """After Ctrl-C: print what was saved, and how to resume."""
        self.close()
        if self._folder:
            command = resuming(self._folder, self._resume)
            self._say(f"Stopped; {self._round} of {self._num_rounds} rounds are kept. Go on with: {command}", "yellow")

    def _lines(self, values: Mapping[str, str]) -> None:
        width = max(map(len, values), default=0)
        for name, value in values.items():
            self._say(f"{name:{width}}  {value}", hang=width + 2)


def _without_learning(line: Mapping[str, Any], unit: str) -> dict[str, str]:
    """The basis of the rounds' accuracies: number of images, and the floors that need no learning."""
    columns = {"test": "test", "val": "validation"}
    return {column: basis(line[name], unit=unit) for column, name in columns.items() if line[name]}


def split_time(spent: Mapping[str, float]) -> str:
    """Text such as "36.0 s: start 2.1 s, features 30.0 s, rounds 2.4 s, report 1.5 s"; parts without time are
    left out."""
    parts = ", ".join(f"{part} {duration(seconds)}" for part, seconds in spent.items() if seconds >= 0.05)
    return f"{duration(sum(spent.values()))}: {parts}"
