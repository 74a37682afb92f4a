"""Words that console, reports and messages share."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence


def count(number: int, what: str) -> str:
    """ "1 class", "1,000 classes"; `what` is the singular."""
    plural = "" if number == 1 else "es" if what.endswith("s") else "s"
    return f"{number:,} {what}{plural}"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The closest spelling among `known`, ignoring case."""
    by_lower = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return by_lower[found[0]] if found else None


def by_reason(reasons: Mapping[str, str]) -> str:
    """Name → reason, in words: "client2: it attacks; client3, client4 and 7 more: it has never trained"."""
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(name)
    return "; ".join(f"{_some(those)}: {reason}" for reason, those in names.items())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]}, {names[1]} and {len(names) - 2:,} more"


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """The short name of each key in labels and folder names: its last part, or the section for a block's name; the full
    key if two short names would be equal."""
    short = {
        key: parts[-2] if (parts := key.split("."))[-1] == "name" and len(parts) > 1 else parts[-1] for key in keys
    }
    names = Counter(short.values())
    return {key: name if names[name] == 1 else key for key, name in short.items()}
