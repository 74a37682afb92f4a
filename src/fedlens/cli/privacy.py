"""`fedlens privacy`: what a run costs in privacy."""

from __future__ import annotations

import shutil
from typing import Annotated

import typer

app = typer.Typer(help="What differential privacy costs a run.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def privacy() -> None:
    """Differential privacy: what it costs a run."""


@app.command()
def plan(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CONFIG] [KEY=VALUE]...", help="as for `fedlens run`: privacy.mode=central"),
    ] = None,
    clients: Annotated[
        int | None, typer.Option(min=1, help="all clients that may take part; default: those of the configuration")
    ] = None,
) -> None:
    """Tell, before any training, what ε a configuration costs, and how much noise it means.

    No image is decoded.
    """
    from fedlens.build.load import load
    from fedlens.build.privacy_plan import planned
    from fedlens.cli.run import split_arguments
    from fedlens.core.lines import folded
    from fedlens.reports.privacy_plan import curve_lines, notes, plan_lines

    path, overrides = split_arguments(arguments or [])
    run = planned(load(path, overrides), clients)
    columns, width = shutil.get_terminal_size().columns, 18
    for label, text in plan_lines(run):
        typer.echo(folded(f"{label:{width}}{text}", columns, hang=width))
    typer.echo("")
    for line in curve_lines(run):
        typer.echo(line)
    for note in notes(run):
        typer.echo(folded(f"note: {note}", columns, hang=2), err=True)
