"""`fedlens client`: one site of a federation between machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedlens.cli.surroundings import quiet_grpc


def client(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Keys of site.yaml: allow.max_local_epochs=2")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="site.yaml: what this site decides for itself.")
    ] = None,
    data_dir: Annotated[
        str | None, typer.Option("--data_dir", "--data-dir", metavar="FOLDER", help="This site's images.")
    ] = None,
    partition_id: Annotated[
        str | None, typer.Option("--partition_id", "--partition-id", metavar="N", help="Number of this site, from 0.")
    ] = None,
    server_address: Annotated[
        str | None,
        typer.Option("--server_address", "--server-address", metavar="HOST:PORT", help="0.0.0.0 means this machine."),
    ] = None,
    certs: Annotated[
        str | None, typer.Option("--certs", metavar="FOLDER", help="This site's folder of `fedlens certs create`.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Join another machine without TLS. Never over the internet.")
    ] = False,
    state_dir: Annotated[
        str | None, typer.Option("--state_dir", "--state-dir", metavar="FOLDER", help="What this site keeps.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:<n>, mps")
    ] = None,
    stay: Annotated[bool, typer.Option("--stay", help="When a run is over, wait for the next.")] = False,
) -> None:
    """Join a server, and train on this site's images when it asks. No image leaves this machine."""
    quiet_grpc()
    from fedlens.cli.console import watcher
    from fedlens.config.overrides import quoted
    from fedlens.config.site import load_site

    texts = {
        "data_dir": data_dir,
        "server_address": server_address,
        "certs": certs,
        "state_dir": state_dir,
        "device": device,
    }
    given = [f"{key}={quoted(value)}" for key, value in texts.items() if value is not None]
    given += [f"partition_id={partition_id}"] if partition_id is not None else []
    given += [f"{key}=true" for key, asked in {"insecure": insecure, "stay": stay}.items() if asked]
    site = load_site(config, [*(overrides or []), *given])
    from fedlens.flower.join import join

    with watcher() as screen:
        join(site, screen)
