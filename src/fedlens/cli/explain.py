"""`fedlens explain`: what limits a run, and what to change."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fedlens.tracking.findings import Commands, Finding


def explain(
    folder: Annotated[Path, typer.Argument(help="The run's folder; default: the newest run.")] = Path("latest"),
    plot: Annotated[Path | None, typer.Option(help="Write a page with the curve of each finding.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Say what limits a run and what to change, the strongest first, each with its evidence from the run's files.

    Causes come before symptoms, which another finding may explain, and these before what only costs time. The run may
    still go on, or have been stopped.
    """
    from fedlens.core.files import to_json
    from fedlens.errors import FedLensError
    from fedlens.explain.checks import findings
    from fedlens.explain.explain import evidence
    from fedlens.explain.proposals import workable
    from fedlens.reports.explained import write_explanation
    from fedlens.tracking.next_steps import commands_of
    from fedlens.tracking.run_dir import RunDir

    run = RunDir.open(folder)
    seen = evidence(run)
    if not seen.metrics:
        raise FedLensError(f"{run.path}: no round has finished, so there is nothing to explain yet")
    found, commands = workable(findings(seen), seen, run.config), commands_of(run, seen.config)
    if plot is not None:
        write_explanation(run.name, found, commands, plot)
    if as_json:
        typer.echo(to_json([as_data(one, commands) for one in found], indent=2))
        return
    _print(found, commands, str(run.path), len(seen.metrics))
    if plot is not None:
        typer.echo(f"Written: {plot}")


def _print(found: Sequence[Finding], commands: Commands, run: str, rounds: int) -> None:
    from fedlens.core import clean
    from fedlens.core.lines import folded
    from fedlens.core.words import count
    from fedlens.explain.checks import CHECKS

    width = shutil.get_terminal_size().columns
    typer.echo(clean.line(f"{run}, {count(rounds, 'round')}"))
    if not found:
        typer.echo(f"Nothing found: none of {count(len(CHECKS), 'check')} says what to change.")
        return
    for number, one in enumerate(found, start=1):
        typer.secho(f"{number}. {one.name}  {_kind(one)}", bold=True)
        for line in _lines(one):
            typer.echo(folded(f"   {clean.line(line)}", width))
        for command in one.commands(commands):  # not wrapped, so that it can be copied
            typer.echo(f"   try  {clean.block(command)}")
    typer.echo("Curves: report.html in the run's folder, or --plot FILE.")


def _kind(one: Finding) -> str:
    """Words for the kind of finding, and how strong it is."""
    kinds = {"cause": "", "symptom": "symptom, ", "time": "costs time, "}
    strength = f"{one.strength:.1f}" if one.strength < MANY else f"above {MANY}"
    return f"({kinds[one.kind]}strength {strength})"


MANY = 100


def _lines(one: Finding) -> Iterator[str]:
    yield f"{one.headline}: {one.evidence}."
    if one.advice:
        yield f"{one.advice}."
    if one.curve:
        yield f"Seen in: {', '.join(one.curve)} ({one.axis})"


def as_data(one: Finding, commands: Commands) -> dict[str, Any]:
    """As plain values."""
    return {
        "name": one.name,
        "kind": one.kind,
        "strength": one.strength,
        "says": one.says,
        "evidence": one.evidence,
        "commands": one.commands(commands),
        "advice": one.advice,
        "curve": {name: list(points) for name, points in one.curve.items()},
        "axis": one.axis,
    }
