"""Detects the source for the content of `data.path`: implements `data.source: auto`."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from fedlens.data.base import sources
from fedlens.data.tree import printable
from fedlens.errors import DataError

WITHOUT_PATH = "sample"


def detect(path: Path | None) -> str:
    """The name of the source that claims `path`; the sample if `path` is None.

    Raises:
        DataError: `path` does not exist, or not exactly one source claims it; the message says what was searched for.
    """
    if path is None:
        return WITHOUT_PATH
    path = path.expanduser()
    if not path.exists():
        raise DataError(
            f"data.path: {printable(path)} does not exist (for a data set of the Hugging Face hub, set data.source to "
            "huggingface)"
        )
    entries = sorted(sources.entries(), key=lambda entry: entry.factory.asked)
    for _, asked in groupby(entries, key=lambda entry: entry.factory.asked):
        claiming = [entry.name for entry in asked if entry.factory.claims(path)]
        if len(claiming) > 1:
            ways = " or ".join(f"data.source={name}" for name in claiming)
            raise DataError(f"data.path: several sources read {printable(path)}; choose {ways}")
        if claiming:
            return claiming[0]
    read = list(dict.fromkeys(entry.factory.reads for entry in reversed(entries) if entry.factory.reads))
    raise DataError(f"data.path: {printable(path)} is neither {' nor '.join(read)}")
