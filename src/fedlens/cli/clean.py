"""`fedlens clean`: make room."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fedlens.tracking.run_dir import RunDir


def clean(
    folders: Annotated[list[Path] | None, typer.Argument(help="Runs, or folders of runs (default: ./logs).")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove the checkpoints of finished runs, after asking. Models, metrics and reports stay; such a run can not be
    resumed for more rounds. Runs whose clients have models of their own keep theirs: `fedlens predict` reads them."""
    from fedlens.cli.ask import agreed
    from fedlens.core.words import count
    from fedlens.tracking.run_dir import runs_in

    sizes = {run: size(run.checkpoints) for run in removable(runs_in(folders or [Path("logs")]))}
    sizes = {run: bytes_ for run, bytes_ in sizes.items() if bytes_}
    if not sizes:
        typer.echo("Nothing to remove: no finished run has checkpoints that only a resume needs.")
        return
    for run, bytes_ in sizes.items():
        typer.echo(f"{bytes_ / 1e6:9,.1f} MB  {run.path}")
    freed = f"{sum(sizes.values()) / 1e6:,.1f} MB"
    question = f"Remove the checkpoints of {count(len(sizes), 'finished run')}, {freed}?"
    if not (yes or agreed(question, "nothing was removed")):
        typer.echo("Nothing was removed.")
        return
    for run in sizes:
        remove(run)
    typer.echo(f"Removed: {freed}.")


def removable(runs: list[RunDir]) -> Iterator[RunDir]:
    """Finished runs in which nobody works, and whose checkpoints hold no client's own model."""
    from fedlens.cli.compare import note
    from fedlens.errors import FedLensError
    from fedlens.tracking.run_dir import configuration
    from fedlens.tracking.state import state_of
    from fedlens.tracking.summary import is_personal

    for run in runs:
        try:
            if state_of(run)[0] == "finished" and not is_personal(configuration(run)):
                yield run
        except FedLensError as error:
            note(f"{run.path} is left out: {error}")


def remove(run: RunDir) -> None:
    """Remove the run's checkpoints.

    Raises:
        ConfigError: another process has begun to train it, or the files cannot be removed.
    """
    from fedlens.errors import ConfigError

    with run.exclusive_lock():
        try:
            shutil.rmtree(run.checkpoints)
            run.checkpoints.mkdir()
        except OSError as error:
            raise ConfigError(
                f"{run.checkpoints} cannot be removed ({error.strerror})", code="unwritable", key=str(run.path)
            ) from error


def size(folder: Path) -> int:
    """Bytes of all files in the folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
