"""`fedlens strategies`: what there is to choose for strategy.name, and for the sections that go with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fedlens.config.blocks import Family


def strategies(
    plugin: Annotated[list[Path] | None, typer.Option(help="Also list the blocks in this Python file.")] = None,
) -> None:
    """List the strategies, and what combines with them.

    Shows what each is for, and its parameters with their defaults.
    """
    from fedlens.config.blocks import ALGORITHM
    from fedlens.config.plugins import load_plugins

    load_plugins(plugin or [])
    width = max(len(name) for family in ALGORITHM for name in family.registry.names())
    for family in ALGORITHM:
        _list(family, width)
    typer.echo("Choose: fedlens run strategy.name=fedprox personalization.name=none aggregation.name=mean")


def _list(family: Family[Any], width: int) -> None:
    from fedlens.config.blocks import block_properties
    from fedlens.config.problems import show

    typer.echo(f"{family.section}.{family.key}")
    for entry in family.registry.entries():
        typer.echo(f"  {entry.name:{width}}  {entry.summary}")
        for name, node in block_properties(entry).items():
            description = f"  {node['description']}" if "description" in node else ""
            typer.echo(f"  {'':{width}}    {name}={show(node['default']) if 'default' in node else '…'}{description}")
    typer.echo("")
