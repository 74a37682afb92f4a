"""`fedlens privacy`: what a run costs in privacy, whether its claim holds, and what it protects from."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from fedlens.cli.progress import progress_bar

_LABELS = 18
"""Columns of a line's label."""

app = typer.Typer(
    help="What differential privacy costs a run, whether its claim holds, and what it protects from.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def privacy() -> None:
    """Differential privacy: what it costs a run, and whether its claim holds."""


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
    _show(plan_lines(run))
    typer.echo("")
    for line in curve_lines(run):
        typer.echo(line)
    for note in notes(run):
        typer.echo(folded(f"note: {note}", _columns(), hang=2), err=True)


@app.command()
def audit(
    run: Annotated[Path, typer.Argument(help="a run's folder; latest: the newest run")],
    draws: Annotated[int, typer.Option(min=1, help="of each of two worlds, with a canary and without")] = 10_000,
    plot: Annotated[Path | None, typer.Option(help="write a page with what was released in both worlds")] = None,
) -> None:
    """Try a run's claim: how well can be told from what is released whether a canary took part?

    Plays the run's own clipping, sampling and noise on a small model. The run itself stays untouched. The exit status
    is 1 if the claim is contradicted.
    """
    from fedlens.core.lines import folded
    from fedlens.reports.privacy_audit import audit_run, lines, meaning, write_audit

    with progress_bar("playing") as progress:
        done = audit_run(run, draws, progress)
    _show(lines(done))
    typer.echo("")
    typer.echo(folded(meaning(done), _columns()))
    if plot is not None:
        write_audit(done, plot)
    if done.contradicted:
        raise typer.Exit(1)


@app.command()
def show(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[CONFIG] [KEY=VALUE]...", help="as for `fedlens run`")
    ] = None,
    images: Annotated[int, typer.Option(min=1, max=8, help="images of the client that is attacked")] = 2,
    steps: Annotated[int, typer.Option(min=1, help="of each attack; more make clearer pictures")] = 200,
    out: Annotated[Path, typer.Option(metavar="FILE", help="the page to write; .png: a picture")] = Path(
        "privacy.html"
    ),
) -> None:
    """Reconstruct a client's pictures from its update, with and without protection.

    Writes a page with the pictures side by side.
    """
    from fedlens.build.load import load
    from fedlens.build.privacy_show import shown
    from fedlens.cli.run import split_arguments
    from fedlens.privacy.inversion import Inversion
    from fedlens.reports.privacy_show import lines, unwritable, write

    if not out.absolute().parent.is_dir():
        raise unwritable(out, "there is no such folder")
    path, overrides = split_arguments(arguments or [])
    with progress_bar("attacking") as progress:
        found = shown(load(path, overrides), images, Inversion(steps), lambda _label: progress)
    write(found, out)
    for line in (*lines(found), f"Written: {out}"):
        typer.echo(line)


def _show(lines: Iterable[tuple[str, str]]) -> None:
    from fedlens.core.lines import folded

    for label, text in lines:
        typer.echo(folded(f"{label:{_LABELS}}{text}", _columns(), hang=_LABELS))


def _columns() -> int:
    return shutil.get_terminal_size().columns
