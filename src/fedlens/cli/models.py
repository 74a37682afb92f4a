"""`fedlens models`: the available models and their weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_type_hints

import click
import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from fedlens.core.registry import Entry
    from fedlens.models.base import ModelBuilder


class Models(TyperGroup):
    """Accepts `fedlens models NAME` to show a model; names of commands take precedence."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = super().get_command(ctx, cmd_name)
        return found or click.Command(cmd_name, callback=lambda: _show(cmd_name))


app = typer.Typer(
    cls=Models,
    help="List the models (`fedlens models`), show one (`fedlens models NAME`), and fetch their weights.",
    subcommand_metavar="[NAME | COMMAND [ARGS]...]",
)


@app.callback(invoke_without_command=True)
def overview(context: typer.Context) -> None:
    """List the models: what each is for, and where its published weights come from; or show one by its name."""
    if context.invoked_subcommand is None:
        _print_table()


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="a model's name, or timm:<architecture>")],
    settings: Annotated[list[str] | None, typer.Argument(help="its own keys, such as variant=large")] = None,
    to: Annotated[Path | None, typer.Option(help="folder for a copy, to carry to another machine")] = None,
) -> None:
    """Bring a model's published weights onto this machine."""
    from fedlens.errors import ConfigError, ModelError, Problem
    from fedlens.models.build import builder_named
    from fedlens.models.weights import PackagedWeights, WithWeights, checkpoints

    wrong = [setting for setting in settings or [] if "=" not in setting]
    if wrong:
        raise ConfigError(
            *(Problem("syntax", one, f"{one!r}: expected key=value, such as variant=large") for one in wrong)
        )
    builder = builder_named(name, dict(setting.split("=", 1) for setting in settings or []))
    if not isinstance(builder, WithWeights):
        raise ModelError(f"{name} has no published weights: it is trained from the start")
    source = builder.source()
    typer.echo(str(source.fetch(to)))
    if to is not None and not isinstance(source, PackagedWeights):
        typer.echo(f"On the other machine, put it in PyTorch's hub cache (here that is {checkpoints()}).")


def _show(name: str) -> None:
    from fedlens.cli.blocks import describe
    from fedlens.config.blocks import MODEL, find

    entry = find(MODEL, name)
    describe([MODEL], entry.name)
    typer.echo(f"\npublished weights: {_weights(entry)}")


def _print_table() -> None:
    from fedlens.cli.blocks import list_family
    from fedlens.config.blocks import MODEL

    names = MODEL.registry.names()
    list_family(MODEL, max(map(len, names)))
    for where in ("in the install", "download", "none"):
        those = [entry.name for entry in MODEL.registry.entries() if _weights(entry) == where]
        typer.echo(f"published weights, {where}: {', '.join(those)}")
    typer.echo(f"Keys and an example of one: fedlens models {names[-1]}")


def _weights(entry: Entry[ModelBuilder]) -> str:
    from fedlens.models.weights import PackagedWeights, WithWeights

    if not issubclass(entry.factory, WithWeights):
        return "none"
    packaged = get_type_hints(entry.factory.source).get("return") is PackagedWeights
    return "in the install" if packaged else "download"
