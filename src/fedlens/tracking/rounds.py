"""The rounds of a run as a table with one header, within 80 columns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fedlens.tracking.summary import duration, percent

SAME = '"'
"""Shown if the traffic equals that of the row above."""

LARGEST_PLAIN = 10_000


class RoundTable:
    """The header, and a row per round. `timed`: simulated clients have a clock, which gets a column; `private`: so has
    the ε that is spent."""

    @classmethod
    def like(cls, line: Mapping[str, Any], num_rounds: int) -> RoundTable:
        """With the columns that the run of a line of the metrics file needs."""
        timed, private = line.get("virtual_seconds") is not None, "privacy/epsilon" in line.get("measures", {})
        return cls(num_rounds, timed=timed, private=private)

    def __init__(self, num_rounds: int, *, timed: bool, private: bool = False) -> None:
        self._num_rounds = num_rounds
        self._shown = [True] * 7 + [private, timed]
        self._traffic = ""

    def header(self) -> str:
        return self._line("round", "loss", "test", "val", "clients", "MB", "s", "ε", "clock")

    def row(self, line: Mapping[str, Any]) -> str:
        """Of a line of the metrics file: training loss, test and validation accuracy, clients that returned a result of
        those selected, 10⁶ bytes in both directions, seconds."""
        moved = number((line["bytes_down"] + line["bytes_up"]) / 1e6)
        traffic, self._traffic = SAME if moved == self._traffic else moved, moved
        virtual = line.get("virtual_seconds")
        return self._line(
            f"{line['round']}/{self._num_rounds}",
            loss(line["train_loss"]),
            percent(line["test"] and line["test"]["accuracy"]),
            percent(line["validation"] and line["validation"]["accuracy"]),
            f"{len(line['cohort'])}/{len(line['cohort']) + len(line['failures'])}",
            traffic,
            number(sum(line["seconds"].values())),
            number(line.get("measures", {}).get("privacy/epsilon", math.nan)),
            "" if virtual is None else duration(virtual),
        )

    def _line(self, *cells: str) -> str:
        widths = (2 * len(str(self._num_rounds)) + 1, 7, 7, 7, 7, 8, 7, 6, 12)
        shown = [(cell, width) for cell, width, shown in zip(cells, widths, self._shown, strict=True) if shown]
        return "  ".join(f"{cell:>{max(width, 5)}}" for cell, width in shown)


def loss(value: float | None) -> str:
    """Four decimals; only the magnitude of a diverged loss; "–" where no client tells it."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.4f}" if abs(value) < LARGEST_PLAIN else f"{value:.1e}"


def number(value: float) -> str:
    """Two decimals where they are significant."""
    if not math.isfinite(value):
        return "∞" if value > 0 else "–"
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"
