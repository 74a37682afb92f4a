"""Runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedlens.errors import ConfigError
from fedlens.reports.headline import headline
from fedlens.reports.load import load_run
from fedlens.tracking.run_dir import find_runs


def compare_runs(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """One row a run (see `Headline`), oldest first. A folder is a run, or holds runs.

    Raises:
        ConfigError: no run is found.
    """
    runs = [run for folder in folders for run in find_runs(folder)]
    if not runs:
        raise ConfigError(f"no run in {', '.join(map(str, folders))}: `fedlens run` makes one")
    return [asdict(headline(load_run(run.path))) for run in runs]
