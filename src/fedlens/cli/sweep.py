"""`fedlens sweep`: many runs, several at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedlens.errors import ConfigError, FedLensError

if TYPE_CHECKING:
    from fedlens.config.overrides import Layer
    from fedlens.config.schema import Config
    from fedlens.sweeps.points import Axis, Point
    from fedlens.tracking.observer import Observer
    from fedlens.tracking.run_dir import RunDir

MANY = 100
"""With more runs than these, it asks first."""


def sweep(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG] [KEY=VALUE,VALUE]...",
            help="Lists make the grid: optimizer.lr=0.1,0.01 seed=0:5 (0 to 4).",
        ),
    ] = None,
    zipped: Annotated[
        list[str] | None,
        typer.Option(
            "--zip", metavar="LISTS", help='Lists that go together: "model.name=lenet,cnn optimizer.lr=0.1,0.01"'
        ),
    ] = None,
    case: Annotated[
        list[str] | None,
        typer.Option(metavar="CASE", help='One of several named cases: "fedper: personalization.name=fedper"'),
    ] = None,
    file: Annotated[Path | None, typer.Option(help="A YAML file with grid, zip or cases, and config for all.")] = None,
    name: Annotated[
        str, typer.Option(help="Folder of the sweep, inside tracking.dir; default: sweep, or the name of --file.")
    ] = "",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time; default: as cores, GPUs and memory allow.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help=f"Do not ask before more than {MANY} runs.")] = False,
) -> None:
    """Run every combination of the given values, several at a time. The same command again skips what is done and does
    the rest."""
    from fedlens.cli.ask import agreed
    from fedlens.cli.compare import show_all
    from fedlens.cli.run import split_arguments
    from fedlens.sweeps.points import many, points
    from fedlens.tracking.run_dir import find_runs

    path, overrides = split_arguments(arguments or [])
    axes, fixed = axes_of(overrides, zipped or [], case or [], file)
    if many(axes) > MANY and not (yes or agreed(f"{many(axes):,} runs: begin?", "no run was begun")):
        typer.echo("No run was begun.")
        return
    found = points(base_of(path, file), fixed, axes, name or (file.stem if file else "sweep"))
    failures = run_all(found, jobs)
    folder = found[0].config.tracking.dir
    if find_runs(folder):
        typer.echo("")
        show_all(folder)
        typer.echo(f"Again: fedlens compare {folder}")
    if failures:
        raise FedLensError(f"{len(failures)} of {len(found)} runs failed: {'; '.join(failures)}")


def axes_of(
    overrides: Sequence[str], zips: Sequence[str], cases: Sequence[str], file: Path | None
) -> tuple[list[Axis], list[str]]:
    """What is combined, from wherever it was given, and the overrides for all."""
    from fedlens.sweeps import points

    axes, fixed = points.listed(overrides)
    named = [points.cases(cases)] if cases else []
    written = points.from_file(file) if file else []
    return [*named, *written, *(points.zipped(text) for text in zips), *axes], fixed


def base_of(path: Path | None, file: Path | None) -> Path | Layer | None:
    """What all points are made from: CONFIG, or what the file of the sweep says for all.

    Raises:
        ConfigError: both are there.
    """
    from fedlens.config.overrides import section_layer
    from fedlens.sweeps.points import CONFIG

    if file is None or not (written := section_layer(file, CONFIG)).tree:
        return path
    if path is not None:
        raise ConfigError(
            f"{path}: {file} has a {CONFIG} of its own; give one of them", code="contradiction", key=str(path)
        )
    return written


def run_all(points: Sequence[Point], jobs: int | None) -> dict[str, str]:
    """Do the unfinished runs; gives why those failed that did, by label."""
    from fedlens.sweeps.pool import Pool, at_once, gpus
    from fedlens.sweeps.screen import SweepScreen, figures

    before = Before(points[0].config.tracking.dir)
    known = {point.label: run for point in points if (run := before.run_of(point.config)) is not None}
    done = {label: figures(run.path) for label, run in known.items() if run.result.exists()}
    left = [point for point in points if point.label not in done]
    at_a_time = max(min(jobs or at_once(left), len(left)), 1)
    screen = SweepScreen({point.label: point.config.federated.num_rounds for point in points}, done, at_a_time)
    work = Work({label: run.path for label, run in known.items()})
    try:
        with closing(screen):
            Pool(work, screen, at_a_time, gpus(left)).run(left)
    except KeyboardInterrupt:
        typer.echo("Stopped. The same command again does the rest.")
        raise
    return {point.label: screen.failures[point.label] for point in points if point.label in screen.failures}


@dataclass(frozen=True)
class Work:
    """Does the run of a point. begun: label → the folder of a run to go on with. A class, because other processes than
    forked ones are sent it."""

    begun: Mapping[str, Path]

    def __call__(self, point: Point, observer: Observer) -> None:
        from fedlens import api

        if point.label in self.begun:
            api.resume(self.begun[point.label], show=observer)
        else:
            api.run(point.config, show=observer)


class Before:
    """The runs that a sweep's folder has already, by the configurations with which they began."""

    def __init__(self, folder: Path) -> None:
        from fedlens.tracking.run_dir import find_runs

        self._runs: dict[str, RunDir] = {}
        for run in find_runs(folder):
            self.add(run)

    def add(self, run: RunDir) -> None:
        """Keep a run in mind; one whose configuration cannot be read any more is left out."""
        from fedlens.build.load import load_saved

        with suppress(ConfigError):
            began = run.first_config if run.first_config.exists() else run.config
            self._runs.setdefault(_identity(load_saved(began)), run)

    def run_of(self, config: Config) -> RunDir | None:
        """The finished or unfinished run that has this configuration."""
        return self._runs.get(_identity(config))


def _identity(config: Config) -> str:
    """The part of a configuration that identifies a run: everything except the location of its folder."""
    return json.dumps(config.model_dump(mode="json", exclude={"tracking"}), sort_keys=True)
