"""A run of many: a bar while it goes on, its notes once for all runs; its line is the caller's."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rich.console import Console

from fedlens import clean
from fedlens.federation.records import RoundRecord
from fedlens.federation.types import Standing
from fedlens.lines import folded
from fedlens.tracking.bars import Bars
from fedlens.tracking.observer import Silent


class OneLine(Silent):
    """Observer of one run. `said`: the notes of the runs before it, which it adds to."""

    def __init__(self, label: str, said: set[str], console: Console | None = None) -> None:
        self._label = label
        self._said = said
        self._console = console or Console(highlight=False)
        self._bars = Bars(self._console, lambda text: self._say(f"{self._label}: {text}"))

    def start(self, header: Mapping[str, str], num_rounds: int, done: int) -> None:
        self._bars.run(num_rounds, done)

    def progress(self, label: str) -> Callable[[int, int], None]:
        return self._bars.work(label)

    def standing(self, standing: Standing) -> None:
        self._bars.standing(standing)

    def note(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._say(f"note: {text}")

    def round(self, record: RoundRecord) -> None:
        self._bars.round(record.round)

    def close(self) -> None:
        self._bars.close()

    def _say(self, text: str) -> None:
        text = clean.block(text)
        text = folded(text, self._console.width, 4) if self._console.is_terminal else text
        self._console.print(text, soft_wrap=True, markup=False)
