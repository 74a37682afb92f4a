"""`fedlens sweep`: one run for every combination of values, one after another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedlens.errors import ConfigError, FedLensError

if TYPE_CHECKING:
    from fedlens.config.schema import Config
    from fedlens.tracking.run_dir import RunDir


def sweep(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[CONFIG] KEY=VALUE,VALUE...", help="Comma-separated values make the grid: optimizer.lr=0.1,0.01"
        ),
    ],
    name: Annotated[str, typer.Option(help="Folder of the sweep, inside tracking.dir.")] = "sweep",
) -> None:
    """Run every combination of the given values. The same command again skips what is done and does the rest."""
    from fedlens.cli.run import split_arguments

    path, overrides = split_arguments(arguments)
    configs = grid(path, overrides, name)
    folder = next(iter(configs.values())).tracking.dir
    failed = [label for label, config in configs.items() if not _run_one(label, config)]
    typer.echo(f"Compare them: fedlens compare {folder}")
    if failed:
        raise FedLensError(f"{len(failed)} of {len(configs)} runs failed: {'; '.join(failed)}")


def grid(path: Path | None, overrides: Sequence[str], name: str) -> dict[str, Config]:
    """The checked configuration of every combination, by a label such as "optimizer.lr=0.1 seed=1".

    Raises:
        ConfigError: a combination is wrong, or there is nothing to combine; nothing has run yet.
    """
    from fedlens.config.load import load

    axes, fixed = split_axes(overrides)
    if not axes:
        raise ConfigError("nothing to sweep over: give at least one key several values, such as seed=0,1,2")
    configs, mistakes = {}, []
    for values in product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        label = " ".join(f"{key}={value}" for key, value in chosen.items())
        try:
            config = load(path, fixed, chosen, use="run")
        except ConfigError as error:
            mistakes += list(error.problems)
            continue
        place = {"dir": config.tracking.dir / name, "name": label}
        configs[label] = config.model_copy(update={"tracking": config.tracking.model_copy(update=place)})
    if mistakes:
        raise ConfigError(*dict.fromkeys(mistakes))
    return configs


def split_axes(overrides: Iterable[str]) -> tuple[dict[str, list[Any]], list[str]]:
    """Keys with several values, and the overrides that have one. Commas inside brackets or quotes do not count."""
    import yaml

    from fedlens.config.text import parse_value

    axes, fixed = {}, []
    for override in overrides:
        key, _, text = override.partition("=")
        try:
            values = parse_value(f"[{text}]")
        except yaml.YAMLError:
            values = []
        if len(values) > 1:
            axes[key] = values
        else:
            fixed.append(override)
    return axes, fixed


def _run_one(label: str, config: Config) -> bool:
    """Run, go on with, or skip one combination; False when it failed."""
    from fedlens import api
    from fedlens.cli.console import terminal

    before = find_run(config)
    if before is not None and before.result.exists():
        typer.echo(f"{label}: done before, in {before.path}")
        return True
    typer.echo(label)
    try:
        with terminal() as observer:
            if before is None:
                api.run(config, show=observer)
            else:
                api.resume(before.path, show=observer)
    except FedLensError as error:
        typer.secho(f"{label}: {error}", fg=typer.colors.RED, err=True)
        return False
    return True


def find_run(config: Config) -> RunDir | None:
    """The run in the sweep's folder that has this configuration, finished or not."""
    from fedlens.config.load import load_saved
    from fedlens.tracking.run_dir import find_runs

    for run in find_runs(config.tracking.dir):
        try:
            same = _compared(load_saved(run.config)) == _compared(config)
        except ConfigError:
            continue
        if same:
            return run
    return None


def _compared(config: Config) -> Mapping[str, Any]:
    """What makes two runs the same: everything but where they are kept."""
    return config.model_dump(mode="json", exclude={"tracking"})
