"""`fedlens certs`: keys and certificates for a federation between hosts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from datetime import datetime

    from rich.table import Table

    from fedlens.flower.certificates import ClientRegistry
    from fedlens.flower.key_files import Certificate

app = typer.Typer(
    help="Make keys and certificates for a federation between hosts.", no_args_is_help=True, rich_markup_mode=None
)

SOON_DAYS = 30

Out = Annotated[Path, typer.Option(help="folder of the certificates")]
Clients = Annotated[int | None, typer.Option(help="number of clients: client1, client2, …")]
Names = Annotated[str | None, typer.Option(help="their names instead, such as berlin,paris")]
Days = Annotated[int, typer.Option(help="how long the server's certificate is valid")]


@app.command()
def create(
    hosts: Annotated[str, typer.Option(help="how clients reach the server: server.example.org,192.0.2.7")],
    out: Annotated[Path, typer.Option(help="folder to write; must be empty or new")],
    clients: Clients = None,
    names: Names = None,
    days: Days = 825,
) -> None:
    """Make an authority, the server's certificate, and a key pair for each client.

    Writes OUT/ca.crt, OUT/server/…, OUT/clients/<name>/…, and OUT/registry.json.
    """
    from fedlens.flower import certificates

    wanted = _wanted(clients, names, ())
    certificates.create(out, _split(hosts), wanted, days)
    typer.echo(f"{out}: the server's certificate for {hosts}, and keys for {_listed(wanted)}")
    typer.echo(f"On the server: {out / 'ca.crt'}, {out / 'server'}, {out / 'registry.json'}")
    _say_what_travels(out)


@app.command()
def add(out: Out, clients: Clients = None, names: Names = None) -> None:
    """Make key pairs for further clients; a running server lets them in."""
    from fedlens.flower import certificates

    wanted = _wanted(clients, names, certificates.load_registry(out).clients)
    certificates.add(out, wanted)
    typer.echo(f"{out}: keys for {_listed(wanted)}")
    _say_what_travels(out)


@app.command()
def revoke(name: Annotated[str, typer.Argument(help="a client's name")], out: Out) -> None:
    """Shut a client out, also from a running server."""
    from fedlens.flower import certificates

    certificates.revoke(out, name)
    typer.echo(f"{name} is revoked in {out / certificates.REGISTRY}; its name is not used again")


@app.command()
def renew(
    out: Out,
    hosts: Annotated[str | None, typer.Option(help="new names and addresses; default: those it has")] = None,
    days: Days = 825,
) -> None:
    """Make a new certificate for the server; clients keep what they have."""
    from fedlens.flower import certificates
    from fedlens.flower.key_files import Certificate

    certificates.renew(out, _split(hosts) if hosts is not None else (), days)
    file = out / certificates.SERVER
    typer.echo(f"{file}: ends on {Certificate.read(file).ends:%Y-%m-%d}; start the server again to use it")


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="folder of the certificates, or one client's own folder")],
    kubernetes: Annotated[bool, typer.Option("--kubernetes", help="as Secrets, for kubectl apply -f -")] = False,
    name: Annotated[
        list[str] | None, typer.Option(help="only of the server (server) or of this client; can be repeated")
    ] = None,
) -> None:
    """Print keys and certificates for another system, on standard output alone.

    One Secret for the server, one for each client. What is printed is secret: pass it on through a pipe.
    """
    import yaml

    from fedlens.errors import ConfigError
    from fedlens.flower.kubernetes import export_secrets

    if not kubernetes:
        raise ConfigError("say for which system: --kubernetes", code="missing", key="--kubernetes")
    exported = export_secrets(folder, name or ())
    manifests = [secret.manifest() for secret in exported.secrets]
    typer.echo(yaml.safe_dump_all(manifests, sort_keys=False, explicit_start=True), nl=False)
    if exported.left_out and not name:
        typer.echo(f"note: without {_listed(exported.left_out)}: no folder in {folder / 'clients'}", err=True)


@app.command()
def show(folder: Annotated[Path, typer.Argument(help="folder of the certificates")]) -> None:
    """Show who has which key, and what runs out when."""
    from rich.console import Console

    from fedlens.flower import certificates
    from fedlens.flower.key_files import Certificate

    registry = certificates.load_registry(folder)
    authority = Certificate.read(folder / certificates.AUTHORITY)
    server = Certificate.read(folder / certificates.SERVER)
    Console(markup=False, emoji=False).print(_table(authority, server, registry))
    _warn(folder / certificates.AUTHORITY, authority, "make new ones for all: fedlens certs create")
    _warn(folder / certificates.SERVER, server, f"renew it: fedlens certs renew --out {folder}")


def _wanted(clients: int | None, names: str | None, taken: Collection[str]) -> list[str]:
    from fedlens.errors import ConfigError
    from fedlens.flower.certificates import numbered

    if (clients is None) == (names is None):
        raise ConfigError(
            "give either a number of clients, --clients 5, or their names, --names berlin,paris",
            code="contradiction",
            key="--clients",
        )
    return numbered(clients, taken) if clients is not None else _split(str(names))


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{len(names)} clients, {names[0]} to {names[-1]}"


def _say_what_travels(out: Path) -> None:
    typer.echo(f"To each client: its folder in {out / 'clients'}, by a safe way, for its key is secret")


def _table(authority: Certificate, server: Certificate, registry: ClientRegistry) -> Table:
    from rich.table import Table

    table = Table()
    for column in ("who, hosts", "from", "until", "revoked", "fingerprint"):
        table.add_column(column, overflow="fold", no_wrap=column != "fingerprint")
    for who, certificate in (("authority", authority), ("server", server)):
        hosts = "".join(f"\n  {host}" for host in certificate.hosts)
        begins, ends = _date(certificate.begins), _date(certificate.ends)
        table.add_row(f"{who}{hosts}", begins, ends, "", certificate.fingerprint)
    for name, client in registry.clients.items():
        table.add_row(name, _date(client.created), "", _date(client.revoked), client.fingerprint)
    return table


def _date(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d}" if moment else ""


def _warn(path: Path, certificate: Certificate, way_out: str) -> None:
    """Warn if a certificate has expired or will expire soon."""
    from datetime import UTC, datetime

    left = (certificate.ends - datetime.now(UTC)).days
    day = _date(certificate.ends)
    if left < SOON_DAYS:
        when = f"ends on {day}, in {left} days" if left >= 0 else f"ended on {day}"
        typer.secho(f"{path}: {when}; {way_out}", fg=typer.colors.YELLOW, err=True)
