"""`fedlens runs`: how runs stand."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fedlens.tracking.run_dir import RunDir
    from fedlens.tracking.state import Standing

COLORS = {"running": "cyan", "finished": "green", "failed": "red", "stopped": "yellow", "elsewhere": "yellow"}


def runs(
    folders: Annotated[list[Path] | None, typer.Argument(help="Runs, or folders of runs (default: ./logs).")] = None,
    state: Annotated[
        str, typer.Option(help="Only these: running, finished, failed, stopped, or elsewhere (another machine has it).")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List runs, the newest last: how far each is, how good, and why it failed."""
    import json
    from dataclasses import asdict

    from fedlens.core.registry import unknown
    from fedlens.errors import ConfigError

    if state and state not in COLORS:
        raise ConfigError(unknown("--state", state, COLORS), code="unknown_name", key="--state")
    found = {run: one for run, one in standings(folders or [Path("logs")]).items() if state in ("", one.state)}
    if as_json:
        typer.echo(json.dumps([{"run": str(run.path), **asdict(one)} for run, one in found.items()], indent=2))
    elif found:
        show(found)
    else:
        typer.echo(f"No run is {state}.")


def standings(folders: list[Path]) -> dict[RunDir, Standing]:
    """How the runs in `folders` stand; damaged ones are named on standard error.

    Raises:
        ConfigError: there is no run.
    """
    from fedlens.cli.compare import note
    from fedlens.errors import FedLensError
    from fedlens.tracking.run_dir import runs_in
    from fedlens.tracking.state import standing

    found = {}
    for run in runs_in(folders):
        try:
            found[run] = standing(run)
        except FedLensError as error:
            note(f"{run.path} is left out: {error}")
    return found


def show(found: dict[RunDir, Standing]) -> None:
    """Print a line for each run, and below those that failed why."""
    from rich.console import Console
    from rich.text import Text

    from fedlens.cli.compare import columns
    from fedlens.core import clean
    from fedlens.core.lines import folded

    console = Console(highlight=False)
    head = ("state", "rounds", "accuracy", "last written")
    lines = columns([head, *(cells(one) for one in found.values())], "<")
    console.print(Text(f"{lines[0]}  run", style="bold"), soft_wrap=True)
    for line, (run, one) in zip(lines[1:], found.items(), strict=True):
        width = len(one.state)
        text = Text.assemble((line[:width], COLORS[one.state]), line[width:], f"  {shlex.quote(str(run.path))}")
        console.print(text, soft_wrap=True)
        if one.word and one.state != "finished":
            told = clean.line(one.word)
            console.print(Text(folded(f"    {told}", console.width, 4) if console.is_terminal else f"    {told}"))


def cells(one: Standing) -> tuple[str, ...]:
    from fedlens.tracking.estimate import brief
    from fedlens.tracking.summary import percent

    return one.state, f"{one.rounds}/{one.planned or '–'}", percent(one.accuracy), f"{brief(max(one.idle, 0))} ago"
