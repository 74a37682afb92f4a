"""`fedlens benefit`: does federating help?"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from fedlens.errors import FedLensError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedlens.sweeps.baselines import Trio
    from fedlens.sweeps.benefit import Measured
    from fedlens.tracking.run_dir import RunDir


def benefit(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CONFIG] [KEY=VALUE]...", help="The federation. data.path=PHOTOS is enough."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds to repeat it with; three or more give intervals.")] = 3,
    name: Annotated[str, typer.Option(help="Folder of the runs, inside tracking.dir.")] = "benefit",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time; default: as cores, GPUs and memory allow.")
    ] = None,
) -> None:
    """Tell whether federating helps, and whom: the federation against each client alone, at equal steps, and everything
    in one place, on each client's own test images. The same command again does what is left."""
    from fedlens.cli.compare import show_notes, show_table
    from fedlens.cli.run import split_arguments
    from fedlens.cli.sweep import run_all
    from fedlens.core.files import write_atomic
    from fedlens.sweeps.baselines import trios
    from fedlens.sweeps.benefit import benefit as over_seeds
    from fedlens.sweeps.benefit import notes, sentences, table
    from fedlens.sweeps.benefit_page import render
    from fedlens.tracking.console import ConsoleTracker

    path, overrides = split_arguments(arguments or [])
    with closing(ConsoleTracker()) as screen:
        found = trios(path, overrides, seeds, name, screen.progress)
    failures = run_all([point for trio in found for point in trio.points], jobs)
    if failures:
        raise FedLensError(f"{len(failures)} runs failed: {'; '.join(failures)}")
    result = over_seeds(found, measured(found))
    page = found[0].federation.config.tracking.dir / "benefit.html"
    write_atomic(page, render(result))
    typer.echo("")
    show_table(*table(result))
    show_notes(notes(result))
    typer.echo("")
    for sentence in sentences(result):
        typer.echo(f"{sentence}.")
    typer.echo(f"Page: {page}")


def measured(trios: Sequence[Trio]) -> list[Measured]:
    """Try all models of the finished runs."""
    from fedlens.cli.sweep import Before
    from fedlens.sweeps.benefit import measure
    from fedlens.tracking.console import ConsoleTracker

    before = Before(trios[0].federation.config.tracking.dir)
    found = []
    with closing(ConsoleTracker()) as screen:
        for trio in trios:
            runs: dict[str, RunDir] = {}
            for point in trio.points:
                run = before.run_of(point.config)
                assert run is not None
                runs[point.label] = run
            found.append(measure(trio, runs, screen.progress))
    return found
