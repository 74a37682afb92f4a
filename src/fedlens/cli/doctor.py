"""`fedlens doctor`: why a client cannot connect to its server; or which settings suit this machine."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from fedlens.cli.surroundings import quiet_grpc

if TYPE_CHECKING:
    from rich.console import Console

    from fedlens.diagnose.doctor import Diagnosis, Finding

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}
_NAMES = 14
"""Length of the longest check's name."""


def doctor(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Keys of the file: optimizer.lr=0.1")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="A run's config.yaml, or the client's site.yaml."),
    ] = None,
    server_address: Annotated[
        str | None,
        typer.Option("--server_address", "--server-address", metavar="HOST:PORT", help="0.0.0.0 means this machine."),
    ] = None,
    certs: Annotated[
        str | None, typer.Option("--certs", metavar="FOLDER", help="The site's folder of `fedlens certs create`.")
    ] = None,
    data_dir: Annotated[
        str | None, typer.Option("--data_dir", "--data-dir", metavar="FOLDER", help="The site's images.")
    ] = None,
    partition_id: Annotated[
        str | None, typer.Option("--partition_id", "--partition-id", metavar="N", help="Number of the site, from 0.")
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="The client joins without TLS.")] = False,
    server: Annotated[
        bool, typer.Option("--server", help="Look at a server's own machine; --certs is the server's folder.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    apply: Annotated[
        bool, typer.Option("--apply", help="config.yaml: write the proposed lines into the file.")
    ] = False,
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=10, help="config.yaml: longest time to measure; default: 90.")
    ] = None,
) -> None:
    """Find out what suits this machine, or why a client cannot connect to its server.

    With --config config.yaml: short runs measure seconds and memory, and tell which settings to use.

    Otherwise: what is wrong between a client and its server, and what to do. Takes no part in the run. Exit status: 1
    when something fails; a warning is 0.
    """
    from fedlens.cli.doctor_settings import advise_settings, is_experiment

    connection = {
        "--server_address": server_address, "--certs": certs, "--data_dir": data_dir, "--partition_id": partition_id,
        "--insecure": insecure, "--server": server,
    }  # fmt: skip
    measuring = {"--apply": apply, "--seconds": seconds}
    if config is not None and is_experiment(config):
        _refuse(connection, f"{config} is the configuration of a run, so its settings are measured")
        advise_settings(config, overrides or [], seconds, apply, as_json)
        return
    _refuse(measuring, "needs --config with the configuration of a run")
    from fedlens.config.overrides import quoted

    texts = {"server_address": server_address, "certs": certs, "data_dir": data_dir}
    given = [f"{key}={quoted(value)}" for key, value in texts.items() if value is not None]
    given += [f"partition_id={partition_id}"] * (partition_id is not None) + ["insecure=true"] * insecure
    _look(config, [*(overrides or []), *given], server, as_json)


def _look(config: Path | None, overrides: list[str], server: bool, as_json: bool) -> NoReturn:
    """Examine the connection, and exit with what was found."""
    quiet_grpc()
    from fedlens.diagnose.doctor import CLIENT, SERVER, examine
    from fedlens.diagnose.subject import Subject

    subject = Subject.load(config, overrides, serves=server)
    checks = SERVER if server else CLIENT
    if as_json:
        report = examine(subject, checks, show=lambda _finding: None, looking=nullcontext)
        typer.echo(_as_json(report, subject.site.server_address))
    else:
        screen = _screen()
        report = examine(
            subject, checks, lambda finding: _print(screen, finding), lambda name: screen.status(f"looking at: {name}")
        )
        _print_end(screen, report)
    raise typer.Exit(report.status == "fail")


def _refuse(options: Mapping[str, object], reason: str) -> None:
    """Raises ConfigError: an option was given that does not go with what is looked at."""
    from fedlens.errors import ConfigError

    given = [name for name, value in options.items() if value not in (None, False)]
    if given:
        raise ConfigError(f"{', '.join(given)}: {reason}; leave it out", code="contradiction", key=given[0])


def _screen() -> Console:
    """A console that wraps lines only for a terminal: in a file or a pipe, a finding is one line."""
    from rich.console import Console

    screen = Console(highlight=False)
    if not screen.is_terminal:
        screen.width = 10_000
    return screen


def _print(screen: Console, finding: Finding) -> None:
    from rich.table import Table
    from rich.text import Text

    colour = _COLOURS[finding.status]
    for mark, name, text in (
        (finding.status, finding.name, Text(finding.text)),
        *([("", "", Text(f"→ {finding.advice}"))] if finding.advice else []),
    ):
        row = Table.grid(padding=(0, 2, 0, 0))
        row.add_column(width=4, style=colour)
        row.add_column(width=_NAMES)
        row.add_column(overflow="fold")
        row.add_row(mark, name, text)
        screen.print(row)


def _print_end(screen: Console, report: Diagnosis) -> None:
    """Print the checks that were not possible, and the summary."""
    for reason in dict.fromkeys(report.unseen.values()):
        names = ", ".join(name for name, its in report.unseen.items() if its == reason)
        screen.print(f"not looked at: {names} ({reason})", markup=False, style="dim")
    marks = [finding.status for finding in report.findings]
    counts = [f"{marks.count(mark)} {mark}" for mark in _COLOURS if mark in marks]
    screen.print(", ".join(counts), style=_COLOURS[report.status])


def _as_json(report: Diagnosis, address: str) -> str:
    from dataclasses import asdict

    from fedlens.core.files import to_json

    return to_json({"server_address": address, "status": report.status, **asdict(report)}, indent=2)
