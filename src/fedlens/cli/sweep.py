"""`fedlens sweep`: one run for each combination of values, in sequence."""

from __future__ import annotations

import time
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
    from fedlens.cli.compare import show
    from fedlens.cli.run import split_arguments
    from fedlens.reports.compare import compare_runs
    from fedlens.tracking.run_dir import find_runs

    path, overrides = split_arguments(arguments)
    configs = grid(path, overrides, name)
    folder = next(iter(configs.values())).tracking.dir
    failed = _run_all(configs)
    if find_runs(folder):
        typer.echo("")
        show(compare_runs([folder]))
        typer.echo(f"Again: fedlens compare {folder}")
    if failed:
        raise FedLensError(f"{len(failed)} of {len(configs)} runs failed: {'; '.join(failed)}")


def _run_all(configs: Mapping[str, Config]) -> list[str]:
    """Execute the unfinished runs, with one line each; returns the labels of failed ones."""
    from fedlens.tracking.estimate import brief

    width, failed, said = max(map(len, configs)), [], set[str]()
    began, made = time.monotonic(), 0
    for number, (label, config) in enumerate(configs.items(), start=1):
        before = find_run(config)
        known = before is not None and before.result.exists()
        outcome = "done before" if known else _outcome(label, config, before, said)
        made += not known
        if outcome is None:
            failed.append(label)
        shown = _figures(config) if outcome is not None else "failed"
        left = (time.monotonic() - began) * (len(configs) - number) / max(made, 1)
        rest = f"  about {brief(left)} left" if made and number < len(configs) else ""
        typer.echo(f"{number}/{len(configs)}  {label:{width}}  {shown}{f'  {outcome}' if outcome else ''}{rest}")
    return failed


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """The short name of each key in labels and folder names: its last part, or the section for a block's name; the full
    key if two short names would be equal."""
    short = {
        key: parts[-2] if (parts := key.split("."))[-1] == "name" and len(parts) > 1 else parts[-1] for key in keys
    }
    names = list(short.values())
    return {key: name if names.count(name) == 1 else key for key, name in short.items()}


def grid(path: Path | None, overrides: Sequence[str], name: str) -> dict[str, Config]:
    """The checked configuration of every combination, by a label of the differing values such as "lr=0.1 seed=1".

    Raises:
        ConfigError: a combination is invalid, or there is nothing to combine; nothing has run yet.
    """
    from fedlens.build.load import load
    from fedlens.config.overrides import COMMAND_LINE

    axes, fixed = split_axes(overrides)
    if not axes:
        raise ConfigError(
            "nothing to sweep over: give at least one key several values, such as seed=0,1,2", code="missing"
        )
    configs, mistakes, short = {}, [], short_names(axes)
    for values in product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        label = " ".join(f"{short[key]}={value}" for key, value in chosen.items())
        try:
            config = load(path, fixed, chosen, origin=COMMAND_LINE, use="run")
        except ConfigError as error:
            mistakes += list(error.problems)
            continue
        place = {"dir": config.tracking.dir / name, "name": label}
        configs[label] = config.model_copy(update={"tracking": config.tracking.model_copy(update=place)})
    if mistakes:
        raise ConfigError(*dict.fromkeys(mistakes))
    return configs


def split_axes(overrides: Iterable[str]) -> tuple[dict[str, list[Any]], list[str]]:
    """Keys with several values, and the overrides with one value. Commas inside brackets or quotes do not separate
    values."""
    import yaml

    from fedlens.config.blocks import all_text_keys
    from fedlens.core.yaml_text import parse_value

    axes, fixed, texts = {}, [], all_text_keys()
    for override in overrides:
        key, _, text = override.partition("=")
        try:
            values = yaml.load(f"[{text}]", yaml.BaseLoader) if key in texts else parse_value(f"[{text}]")
        except yaml.YAMLError:
            values = []
        if len(values) > 1:
            axes[key] = values
        else:
            fixed.append(override)
    return axes, fixed


def _outcome(label: str, config: Config, before: RunDir | None, said: set[str]) -> str | None:
    """Run one combination, or resume its run `before`; returns the text next to its figures, None if it failed."""
    from fedlens import api
    from fedlens.cli.main import complain
    from fedlens.tracking.one_line import OneLine

    observer = OneLine(label, said)
    try:
        if before is None:
            api.run(config, show=observer)
        else:
            api.resume(before.path, show=observer)
    except FedLensError as error:
        observer.close()
        complain(f"{label}: {error}")
        return None
    finally:
        observer.close()
    return "" if before is None else "resumed"


def _figures(config: Config) -> str:
    """Accuracy and time of the run with this configuration."""
    from fedlens.reports.compare import compare_runs
    from fedlens.tracking.summary import duration, percent

    run = find_run(config)
    if run is None:
        return "–"
    (row,) = compare_runs([run.path])
    accuracy = row["accuracy"] if row["accuracy"] is not None else row["client_accuracy"]
    return f"{percent(accuracy):>7}  {duration(row['seconds']):>10}"


def find_run(config: Config) -> RunDir | None:
    """The finished or unfinished run in the sweep's folder that has this configuration."""
    from fedlens.build.load import load_saved
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
    """The part of a configuration that identifies a run: everything except the location of its folder."""
    return config.model_dump(mode="json", exclude={"tracking"})
