"""`fedlens health`: the question that container and service managers ask again and again."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Ask whether a server or a client on this machine is alive. Exit status: 0 yes, 1 no.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

CONNECT_SECONDS = 3.0


@app.command()
def server(
    address: Annotated[str, typer.Option(metavar="HOST:PORT", help="0.0.0.0 means this machine.")] = "127.0.0.1:8080",
) -> None:
    """Ask whether a server's port accepts connections."""
    from fedlens.errors import ConnectionFailed
    from fedlens.flower.addresses import as_target, parted

    host, port = parted(address, "--address")
    try:
        socket.create_connection((as_target(host), port), CONNECT_SECONDS).close()
    except OSError as error:
        reason = error.strerror or f"no answer within {CONNECT_SECONDS:g} s"
        raise ConnectionFailed(f"{address}: no server accepts connections ({reason})") from error
    typer.echo(f"{address}: accepts connections")


@app.command()
def client(
    state_dir: Annotated[
        Path | None,
        typer.Option(
            "--state_dir", "--state-dir", metavar="FOLDER", help="The client's; default: that of the only client."
        ),
    ] = None,
) -> None:
    """Ask whether a client is at work, or waits for its server. One that hangs is noticed after 150 s."""
    from fedlens.errors import RuntimeFailure
    from fedlens.flower.pulse import LIMIT_SECONDS, silence

    folder = state_dir.expanduser() if state_dir else _only_client()
    quiet = silence(folder)
    if quiet is None:
        raise RuntimeFailure(f"{folder}: no client runs with this state folder")
    if quiet > LIMIT_SECONDS:
        raise RuntimeFailure(f"{folder}: its client was alive {quiet:.0f} s ago; {LIMIT_SECONDS:.0f} s are the limit")
    typer.echo(f"{folder}: its client was alive {quiet:.0f} s ago")


def _only_client() -> Path:
    """The state folder of the only client below the user's state folder.

    Raises:
        RuntimeFailure: there is none.
        ConfigError: there are several.
    """
    from fedlens.core.machine import state_home
    from fedlens.errors import ConfigError, RuntimeFailure
    from fedlens.flower.pulse import beating

    found = beating(state_home())
    if not found:
        raise RuntimeFailure(f"{state_home()}: no client runs here; for one with a state_dir of its own, --state_dir")
    if len(found) > 1:
        names = ", ".join(folder.name for folder in found)
        raise ConfigError(
            f"several clients run here ({names}): give one, --state_dir {found[0]}", code="missing", key="--state_dir"
        )
    return found[0]
