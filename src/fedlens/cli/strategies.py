"""`fedlens strategies`: the choices for strategy.name, and for the related sections."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def strategies(
    name: Annotated[str | None, typer.Argument(help="Show one of them: its keys, its paper, an example.")] = None,
    plugin: Annotated[list[Path] | None, typer.Option(help="Also list the blocks in this Python file.")] = None,
) -> None:
    """List the strategies, and what combines with them; or show one by its name."""
    from fedlens.cli.blocks import describe, list_family
    from fedlens.config.blocks import ALGORITHM
    from fedlens.config.plugins import load_plugins

    load_plugins(plugin or [])
    if name is not None:
        describe(ALGORITHM, name)
        return
    width = max(len(known) for family in ALGORITHM for known in family.registry.names())
    for family in ALGORITHM:
        list_family(family, width)
    typer.echo("Keys, paper and an example of one: fedlens strategies fedprox")
