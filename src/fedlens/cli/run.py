"""`fedlens run`: a federated experiment from a configuration file, overrides, or only the defaults."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer


def run(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CONFIG] [KEY=VALUE]...", help="A YAML file, then overrides: federated.num_rounds=3"),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="model.name")] = None,
    num_rounds: Annotated[
        str | None, typer.Option("--num_rounds", "--num-rounds", metavar="N", help="federated.num_rounds")
    ] = None,
    fraction_fit: Annotated[
        str | None,
        typer.Option("--fraction_fit", "--fraction-fit", metavar="SHARE", help="federated.fraction_fit, 0 < SHARE ≤ 1"),
    ] = None,
    min_fit_clients: Annotated[
        str | None,
        typer.Option("--min_fit_clients", "--min-fit-clients", metavar="N", help="federated.min_fit_clients"),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="tracking.name: how the run folder begins")
    ] = None,
) -> None:
    """Run a federated experiment. Without CONFIG: the defaults, on the sample images."""
    from fedlens import api
    from fedlens.cli.console import terminal
    from fedlens.config.overrides import quoted

    path, overrides = split_arguments(arguments or [])
    flags = {
        "model.name": model and quoted(model),
        "federated.num_rounds": num_rounds,
        "federated.fraction_fit": fraction_fit,
        "federated.min_fit_clients": min_fit_clients,
        "tracking.name": name and quoted(name),
    }
    overrides += [f"{key}={value}" for key, value in flags.items() if value is not None]
    with terminal(shlex.join(["fedlens", "run", *map(str, [path] if path else []), *overrides])) as observer:
        if path is None:
            observer.note(_no_file())
        api.run(path, *overrides, show=observer)


def split_arguments(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The configuration file, if the first argument is one, and the overrides."""
    from fedlens.core.files import is_file
    from fedlens.tracking.run_dir import newest

    if arguments and ("=" not in arguments[0] or is_file(arguments[0])):
        return newest(Path(arguments[0])), list(arguments[1:])
    return None, list(arguments)


def _no_file() -> str:
    here = (
        " The config.yaml in this folder is not used: `fedlens run config.yaml`."
        if Path("config.yaml").exists()
        else ""
    )
    return f"No configuration file given: defaults.{here}"
