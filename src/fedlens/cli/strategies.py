"""`fedlens strategies`: what there is to choose for strategy.name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def strategies(
    plugin: Annotated[list[Path] | None, typer.Option(help="Also list the strategies in this Python file.")] = None,
) -> None:
    """List the strategies.

    Shows what each is for, and its parameters with their defaults.
    """
    from fedlens.config.blocks import STRATEGY, block_properties
    from fedlens.config.plugins import load_plugins

    load_plugins(plugin or [])
    entries = STRATEGY.registry.entries()
    width = max(len(entry.name) for entry in entries)
    for entry in entries:
        typer.echo(f"{entry.name:{width}}  {entry.summary}")
        for name, node in block_properties(entry).items():
            description = f"  {node['description']}" if "description" in node else ""
            typer.echo(f"{'':{width}}    {name}={node.get('default', '…')}{description}")
    typer.echo(f"\nChoose one: fedlens run strategy.name={entries[-1].name}")
