"""`fedlens server`: the server of a federation between machines."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from fedlens.cli.run import split_arguments

AUTO = Path("auto")

Insecure = Annotated[
    bool,
    typer.Option("--insecure", help="server.insecure: other machines without TLS and keys. Never over the internet."),
]
Resume = Annotated[
    Path | None,
    typer.Option(
        "--resume",
        metavar="RUN",
        help="Resume a run (or latest) from its last checkpoint; auto: the newest of this name where it is "
        "unfinished, else start one.",
    ),
]
Service = Annotated[
    bool,
    typer.Option(
        "--service",
        help="For systemd and Kubernetes, which start a server again and again: resume the newest run of "
        "this name where it is unfinished, else start one; when it has ended, wait until stopped.",
    ),
]


def server(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CONFIG] [KEY=VALUE]...", help="A YAML file, then overrides: federated.num_rounds=3"),
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The YAML file, by name.")] = None,
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
    server_address: Annotated[
        str | None,
        typer.Option("--server_address", "--server-address", metavar="HOST:PORT", help="server.address"),
    ] = None,
    certs: Annotated[
        str | None, typer.Option("--certs", metavar="FOLDER", help="server.certs: the folder of `fedlens certs create`")
    ] = None,
    insecure: Insecure = False,
    resume: Resume = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="tracking.name: how the run folder begins")
    ] = None,
    service: Service = False,
) -> None:
    """Wait for clients, and train with them. Without certificates: clients on this machine only."""
    from fedlens.config.overrides import quoted

    path, overrides = split_arguments(arguments or [])
    flags = {
        "model.name": model and quoted(model),
        "federated.num_rounds": num_rounds,
        "federated.fraction_fit": fraction_fit,
        "federated.min_fit_clients": min_fit_clients,
        "server.address": server_address and quoted(server_address),
        "server.certs": certs and quoted(certs),
        "server.insecure": "true" if insecure else None,
        "tracking.name": name and quoted(name),
    }
    overrides += [f"{key}={value}" for key, value in flags.items() if value is not None]
    if service:
        _as_service(config or path, resume, overrides)
    elif resume == AUTO:
        from fedlens.cli.service import serve_unfinished

        serve_unfinished(config or path, overrides)
    else:
        _wait_and_train(config or path, resume, overrides)


def _as_service(path: Path | None, resume: Path | None, overrides: list[str]) -> None:
    from fedlens.cli.service import serve_until_stopped
    from fedlens.errors import ConfigError

    if resume:
        raise ConfigError("--service finds the run by itself; leave out --resume", code="contradiction", key="--resume")
    serve_until_stopped(path, overrides)


def _wait_and_train(path: Path | None, resume: Path | None, overrides: list[str]) -> None:
    from fedlens import api
    from fedlens.cli.console import terminal
    from fedlens.tracking.run_dir import newest

    resume = resume and newest(resume)
    file = resume / "config.yaml" if resume else path
    again = shlex.join(["fedlens", "server", *map(str, [file] if file else []), *overrides])
    with terminal(again, resume="fedlens server --resume") as observer:
        if resume is not None:
            api.serve_on(resume, *overrides, show=observer)
        else:
            api.serve(path, *overrides, show=observer)
