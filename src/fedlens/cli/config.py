"""`fedlens config`: the schema for editors, and the resolved configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Check configurations; write the editors' schema.")


@app.command()
def schema(
    out: Annotated[Path | None, typer.Option(help="File to write; default: the terminal.")] = None,
    plugin: Annotated[list[Path] | None, typer.Option(help="Python file whose blocks the schema shall know.")] = None,
) -> None:
    """The JSON schema of config.yaml, for completion and checks while you type."""
    from fedlens.config.json_schema import schema_text
    from fedlens.config.plugins import load_plugins

    load_plugins(plugin or [])
    if out is None:
        typer.echo(schema_text(), nl=False)
    else:
        out.write_text(schema_text(), encoding="utf-8")
        typer.echo(f"{out}: written. First line of your file: # yaml-language-server: $schema={out}")


@app.command()
def show(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[CONFIG] [KEY=VALUE]...", help="As for `fedlens run`.")
    ] = None,
) -> None:
    """Check a configuration and print it with every default filled in."""
    from fedlens.build.load import load
    from fedlens.cli.run import split_arguments
    from fedlens.config.load import dump

    path, overrides = split_arguments(arguments or [])
    typer.echo(dump(load(path, overrides)), nl=False)
