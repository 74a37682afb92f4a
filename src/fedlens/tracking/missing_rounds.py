"""Completed rounds without a line in metrics.jsonl, because lines were removed or the file was emptied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MOST_RANGES = 5
"""Maximum number of ranges in the note."""


def missing_rounds(metrics: Sequence[Mapping[str, Any]], done: int) -> list[int]:
    """The rounds without a line, among those up to `done` and up to the last line's round."""
    there = {line["round"] for line in metrics}
    return [number for number in range(1, max(there | {done}) + 1) if number not in there]


def missing_note(rounds: Sequence[int]) -> str:
    """The note on missing rounds; empty if there are none."""
    if not rounds:
        return ""
    ranges = list(_ranges(rounds))
    shown = ", ".join(ranges[:MOST_RANGES]) + (", …" if len(ranges) > MOST_RANGES else "")
    which = "round" if len(rounds) == 1 else "rounds"
    return f"metrics.jsonl has no line for {which} {shown}: accuracy, communication and time are of the others only"


def _ranges(rounds: Sequence[int]) -> Iterator[str]:
    """Ranges as text: 3, 5–7."""
    first = last = rounds[0]
    for number in (*rounds[1:], None):
        if number == last + 1:
            last = number
            continue
        yield str(first) if first == last else f"{first}–{last}"
        if number is not None:
            first = last = number
