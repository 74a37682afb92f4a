"""What the observers on a terminal have in common: bars over the work, and lines above them."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.text import Text

from fedlens.core import clean
from fedlens.core.lines import folded
from fedlens.core.types import BatchProgress
from fedlens.tracking.bars import Bars
from fedlens.tracking.observer import Silent


class Barred(Silent):
    """Observer with bars. `prefix`: begins the lines that stand in for bars where there is no terminal."""

    def __init__(self, console: Console | None, prefix: str = "") -> None:
        self._console = console or Console(highlight=False)
        self._bars = Bars(self._console, lambda text: self._say(f"{prefix}{text}"))

    def progress(self, label: str) -> Callable[[int, int], None]:
        """A bar of its own for (done, all) calls; gone when the work is done. Work that is soon done shows nothing."""
        return self._bars.work(label)

    def standing(self, standing: BatchProgress) -> None:
        """How far the round under way is."""
        self._bars.standing(standing)

    def close(self) -> None:
        """Take the bars away; lines may still follow."""
        self._bars.close()

    def _say(self, text: str, style: str = "", hang: int = 4) -> None:
        """One line, without control characters, folded between words on a terminal."""
        text = clean.block(text)
        if self._console.is_terminal:
            text = folded(text, self._console.width, hang)
        self._console.print(Text(text, style=style), soft_wrap=True)
