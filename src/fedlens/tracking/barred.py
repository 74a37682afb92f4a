"""Base of the terminal observers: progress bars, and lines above them."""

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
    """Observer with progress bars. `prefix`: starts the lines that replace bars without a terminal."""

    def __init__(self, console: Console | None, prefix: str = "") -> None:
        self._console = console or Console(highlight=False)
        self._bars = Bars(self._console, lambda text: self._say(f"{prefix}{text}"))

    def progress(self, label: str) -> Callable[[int, int], None]:
        """A separate bar for (done, all) calls, removed when the work is done. Short work shows none."""
        return self._bars.work(label)

    def standing(self, standing: BatchProgress) -> None:
        """Show the progress of the current round."""
        self._bars.standing(standing)

    def close(self) -> None:
        """Remove the bars; lines may still follow."""
        self._bars.close()

    def _say(self, text: str, style: str = "", hang: int = 4) -> None:
        """Print one line without control characters; a terminal wraps it between words."""
        say(self._console, text, style, hang)


def say(console: Console, text: str, style: str = "", hang: int = 4) -> None:
    """Print text without control characters; a terminal wraps it between words."""
    text = clean.block(text)
    if console.is_terminal:
        text = folded(text, console.width, hang)
    console.print(Text(text, style=style), soft_wrap=True)
