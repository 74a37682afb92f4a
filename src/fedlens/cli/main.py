"""The `fedlens` command. Commands import heavy modules only when they run, so that help and errors appear at once."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import click
import typer
import typer.core
from typer.core import TyperGroup

from fedlens.cli import (
    benefit,
    certs,
    check,
    clean,
    client,
    compare,
    config,
    data,
    doctor,
    evaluate,
    explain,
    export,
    health,
    models,
    new,
    predict,
    privacy,
    resume,
    run,
    runs,
    search,
    server,
    signals,
    strategies,
    surroundings,
    sweep,
    tune,
    watch,
)
from fedlens.core import clean as cleaned
from fedlens.core.heap import rare_collections
from fedlens.core.lines import folded
from fedlens.errors import ConfigError, FedLensError

typer.core.HAS_RICH = False  # with rich installed, typer writes "\\[required]" into plain help


class CommandGroup(TyperGroup):
    """Converts FedLens' own exceptions to a message and an exit status: 2 for configuration errors, else 1."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """`--debug` is accepted at any position."""
        rest = [arg for arg in args if arg != "--debug"]
        return super().parse_args(ctx, ["--debug"] * (len(rest) < len(args)) + rest)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FedLensError as error:
            if ctx.params["debug"]:
                raise
            for note in getattr(error, "__notes__", ()):
                typer.echo(f"note: {cleaned.line(note)}", err=True)
            complain(cleaned.block(str(error)))
            raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from error
        except KeyboardInterrupt as error:
            if ctx.params["debug"]:
                raise
            with suppress(OSError):  # standard error may be closed
                typer.secho(f"Interrupted{f' by {error}' * bool(str(error))}.", err=True)
            signals.leave_output()
            raise typer.Exit(signals.status(error)) from error


app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: fedlens run",
)


def complain(text: str) -> None:
    """Print red lines on standard error: wrapped between words on a terminal, unwrapped in a file."""
    if sys.stderr.isatty():
        text = folded(text, shutil.get_terminal_size().columns, hang=2)
    typer.secho(text, fg=typer.colors.RED, err=True)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"fedlens {version('fedlens')}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """A federated image-recognition lab: one command runs a federated experiment."""


app.command()(run.run)
app.command()(resume.resume)
app.command()(compare.compare)
app.command()(sweep.sweep)
app.command()(tune.tune)
app.command()(benefit.benefit)
app.command()(explain.explain)
app.command()(runs.runs)
app.command()(watch.watch)
app.command()(clean.clean)
app.command()(predict.predict)
app.command()(search.search)
app.command()(evaluate.evaluate)
app.command()(export.export)
app.command()(server.server)
app.command()(client.client)
app.command()(doctor.doctor)
app.command()(new.new)
app.command()(check.check)
app.command()(strategies.strategies)
app.add_typer(models.app, name="models")
app.add_typer(data.app, name="data")
app.add_typer(config.app, name="config")
app.add_typer(privacy.app, name="privacy")
app.add_typer(certs.app, name="certs")
app.add_typer(health.app, name="health")


def main(*first: str) -> None:
    """Entry point of the installed command; `first`: arguments before those of the command line."""
    rare_collections()
    surroundings.mend_streams()
    try:
        signals.as_interrupts()
        surroundings.need_working_folder()
        surroundings.mend_home()
        with flushed():
            app([*first, *sys.argv[1:]])
    except FedLensError as error:
        complain(str(error))
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except Exception as error:
        line = None if "--debug" in sys.argv else surroundings.told(error)
        if line is None:
            raise
        with suppress(OSError):
            complain(str(line))
        sys.exit(1)


@contextmanager
def flushed() -> Iterator[None]:
    """Flush output at the end. Output that cannot be written is dropped, so that the interpreter does not try again at
    exit."""
    try:
        yield
    finally:
        try:
            sys.stdout.flush()
        except OSError:
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
            raise
