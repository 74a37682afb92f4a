"""Words that console, reports and messages share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


def count(number: int, what: str) -> str:
    """ "1 class", "1,000 classes"; `what` is the singular."""
    plural = "" if number == 1 else "es" if what.endswith("s") else "s"
    return f"{number:,} {what}{plural}"


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """The short name of each key in labels and folder names: its last part, or the section for a block's name; the full
    key if two short names would be equal."""
    short = {
        key: parts[-2] if (parts := key.split("."))[-1] == "name" and len(parts) > 1 else parts[-1] for key in keys
    }
    names = Counter(short.values())
    return {key: name if names[name] == 1 else key for key, name in short.items()}
