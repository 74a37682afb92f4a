"""One of many runs: a bar during the run, and its notes unless an earlier run printed them; the caller prints its
result line."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console

from fedlens.core.records import RoundRecord
from fedlens.tracking.barred import Barred


class OneLine(Barred):
    """Observer of one run. `said`: notes of earlier runs, to which it adds its own."""

    def __init__(self, label: str, said: set[str], console: Console | None = None) -> None:
        super().__init__(console, f"{label}: ")
        self._said = said

    def start(self, header: Mapping[str, str], num_rounds: int, done: int) -> None:
        self._bars.run(num_rounds, done)

    def note(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._say(f"note: {text}")

    def round(self, record: RoundRecord) -> None:
        self._bars.round(record.round)
