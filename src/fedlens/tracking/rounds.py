"""The rounds of a run as a table with one header, within 80 columns."""

from __future__ import annotations

import math

from fedlens.core.records import RoundRecord
from fedlens.tracking.summary import duration, percent

SAME = '"'
"""Shown if the traffic equals that of the row above."""

LARGEST_PLAIN = 10_000


class RoundTable:
    """The header, and a row per round. `timed`: simulated clients have a clock, which gets a column; `private`: so has
    the ε that is spent."""

    def __init__(self, num_rounds: int, *, timed: bool, private: bool = False) -> None:
        self._num_rounds = num_rounds
        self._shown = [True] * 7 + [private, timed]
        self._traffic = ""

    def header(self) -> str:
        return self._line("round", "loss", "test", "val", "clients", "MB", "s", "ε", "clock")

    def row(self, record: RoundRecord) -> str:
        """Training loss, test and validation accuracy, clients that returned a result of those selected, 10⁶ bytes in
        both directions, seconds."""
        moved = number((record.bytes_down + record.bytes_up) / 1e6)
        traffic, self._traffic = SAME if moved == self._traffic else moved, moved
        return self._line(
            f"{record.round}/{self._num_rounds}",
            loss(record.train_loss),
            percent(record.test.accuracy if record.test else None),
            percent(record.validation.accuracy if record.validation else None),
            f"{len(record.reports)}/{record.arrivals}",
            traffic,
            number(sum(record.seconds.values())),
            number(record.measures.get("privacy/epsilon", math.nan)),
            "" if record.virtual_seconds is None else duration(record.virtual_seconds),
        )

    def _line(self, *cells: str) -> str:
        widths = (2 * len(str(self._num_rounds)) + 1, 7, 7, 7, 7, 8, 7, 6, 12)
        shown = [(cell, width) for cell, width, shown in zip(cells, widths, self._shown, strict=True) if shown]
        return "  ".join(f"{cell:>{max(width, 5)}}" for cell, width in shown)


def loss(value: float) -> str:
    """Four decimals; only the magnitude of a diverged loss; "–" where no client tells it."""
    if math.isnan(value):
        return "–"
    return f"{value:.4f}" if abs(value) < LARGEST_PLAIN else f"{value:.1e}"


def number(value: float) -> str:
    """Two decimals where they are significant."""
    if not math.isfinite(value):
        return "∞" if value > 0 else "–"
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"
