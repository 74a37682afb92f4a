"""Runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedlens.errors import ConfigError
from fedlens.files import write_atomic
from fedlens.reports.headline import headline
from fedlens.reports.load import LoadedRun, load_run
from fedlens.tracking.run_dir import find_runs


def compare_runs(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """One row a run (see `Headline`), oldest first. A folder is a run, or holds runs.

    Raises:
        ConfigError: no run is found.
    """
    return [asdict(headline(run)) for run in _loaded(folders)]


def plot_runs(folders: Sequence[Path], path: Path) -> None:
    """Write a page of one plot, the test accuracy of the runs in `folders`, that needs no network: against the virtual
    clock when all of them have one, else by round.

    Raises:
        ConfigError: no run is found, none has a test accuracy, or the page cannot be written.
    """
    from fedlens.reports.figures import compared

    runs = {f"{headline(run).strategy}: {run.folder.path}": run.metrics for run in _loaded(folders)}
    evaluated = {name: metrics for name, metrics in runs.items() if any(line["test"] for line in metrics)}
    if not evaluated:
        raise ConfigError(f"--plot {path}: none of the runs has a test accuracy yet")
    try:
        write_atomic(path, compared(evaluated).to_html(config={"displayModeBar": False}, include_plotlyjs=True))
    except OSError as error:
        raise ConfigError(f"--plot {path}: cannot be written ({error.strerror}); give another file") from error


def _loaded(folders: Sequence[Path]) -> list[LoadedRun]:
    runs = [run for folder in folders for run in find_runs(folder)]
    if not runs:
        raise ConfigError(f"no run in {', '.join(map(str, folders))}: `fedlens run` makes one")
    return [load_run(run.path) for run in runs]
