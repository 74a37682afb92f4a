"""Where FedLens keeps what it has downloaded or computed, for all runs of a user."""

from __future__ import annotations

import os
from pathlib import Path


def default_cache_dir() -> Path:
    """$FEDLENS_CACHE, else $XDG_CACHE_HOME/fedlens, else ~/.cache/fedlens."""
    if own := os.environ.get("FEDLENS_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedlens"
