"""The rounds of a run as a table with one header, within 80 columns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedlens.core.records import RoundRecord
from fedlens.tracking.summary import duration, percent, spent_epsilon

SAME = '"'
"""Shown if the traffic equals that of the row above."""

LARGEST_PLAIN = 10_000


@dataclass(frozen=True)
class Row:
    """What the table shows of a round. Accuracies and the loss are None where they were not measured; epsilon: None
    where none is counted."""

    round: int
    loss: float | None
    test: float | None
    validation: float | None
    answered: int
    failures: Sequence[tuple[str, str]]
    """Clients that failed, and why."""
    megabytes: float
    seconds: float
    epsilon: float | None
    virtual_seconds: float | None

    @classmethod
    def of_record(cls, record: RoundRecord) -> Row:
        return cls(
            record.round,
            record.train_loss,
            record.test.accuracy if record.test else None,
            record.validation.accuracy if record.validation else None,
            len(record.reports),
            [(failure.client, failure.reason) for failure in record.failures],
            (record.bytes_down + record.bytes_up) / 1e6,
            sum(record.seconds.values()),
            spent_epsilon(record.measures),
            record.virtual_seconds,
        )

    @classmethod
    def of_line(cls, line: Mapping[str, Any]) -> Row:
        """`line`: of a metrics file."""
        return cls(
            line["round"],
            line["train_loss"],
            line["test"] and line["test"]["accuracy"],
            line["validation"] and line["validation"]["accuracy"],
            len(line["cohort"]),
            [(failure["client"], failure["reason"]) for failure in line["failures"]],
            (line["bytes_down"] + line["bytes_up"]) / 1e6,
            sum(line["seconds"].values()),
            spent_epsilon(line.get("measures", {})),
            line.get("virtual_seconds"),
        )


class RoundTable:
    """The header, and a row per round; `first`, a row of the run, tells the columns: simulated clients have a clock,
    which gets one, and so has the ε that is spent."""

    def __init__(self, num_rounds: int, first: Row) -> None:
        self._num_rounds = num_rounds
        self._shown = [True] * 7 + [first.epsilon is not None, first.virtual_seconds is not None]
        self._traffic = ""

    def header(self) -> str:
        return self._line("round", "loss", "test", "val", "clients", "MB", "s", "ε", "clock")

    def row(self, row: Row) -> str:
        """Training loss, test and validation accuracy, clients that returned a result of those selected, 10⁶ bytes in
        both directions, seconds."""
        moved = number(row.megabytes)
        traffic, self._traffic = SAME if moved == self._traffic else moved, moved
        return self._line(
            f"{row.round}/{self._num_rounds}",
            loss(row.loss),
            percent(row.test),
            percent(row.validation),
            f"{row.answered}/{row.answered + len(row.failures)}",
            traffic,
            number(row.seconds),
            "" if row.epsilon is None else number(row.epsilon),
            "" if row.virtual_seconds is None else duration(row.virtual_seconds),
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
