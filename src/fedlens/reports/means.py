"""The mean over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from fedlens.tracking.intervals import FEWEST, student_t


@dataclass(frozen=True)
class Mean:
    """half: to either end of the 95 % interval; None with fewer than `FEWEST` values."""

    value: float
    half: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Mean | None:
        """None where a value is not known: a mean over some seeds would not be that of the others."""
        known = [value for value in values if value is not None]
        if not known or len(known) < len(values):
            return None
        half = student_t(len(known) - 1) * stdev(known) / math.sqrt(len(known)) if len(known) >= FEWEST else None
        return cls(fmean(known), half, len(known))
