"""Words that console, reports and messages share."""

from __future__ import annotations


def count(number: int, what: str) -> str:
    """ "1 class", "1,000 classes"; `what` is the singular."""
    plural = "" if number == 1 else "es" if what.endswith("s") else "s"
    return f"{number:,} {what}{plural}"
