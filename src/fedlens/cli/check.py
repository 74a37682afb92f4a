"""`fedlens check`: a block of one's own, tried."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fedlens.config.blocks import Family
    from fedlens.core.registry import Entry


def check(
    plugin: Annotated[Path, typer.Argument(metavar="FILE", help="A plugin: a Python file that registers blocks.")],
    keys: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Parameters, and what the block needs beside it."),
    ] = None,
) -> None:
    """Try every block that a plugin registers, in small runs on made-up images: a line for each check. The exit status
    is 1 if one fails."""
    from fedlens.checks.trials import Trial, checks_of
    from fedlens.core.words import count

    failed = 0
    for family, entry in blocks_of(plugin):
        typer.echo(f"{family.section}.{family.key} = {entry.name}")
        with TemporaryDirectory(prefix="fedlens-check-") as folder:
            trial = Trial(family, entry, plugin.resolve(), keys or (), Path(folder))
            trial.block()  # a mistake in the keys, or a missing one, is no failure of the block
            failed += sum(not told(name, one) for name, one in checks_of(trial).items())
    if failed:
        typer.echo(f"{count(failed, 'check')} failed.")
        raise typer.Exit(1)


def blocks_of(plugin: Path) -> list[tuple[Family[Any], Entry[Any]]]:
    """What the plugin registers, with the family of each.

    Raises:
        ConfigError: it cannot be loaded, or registers nothing.
    """
    from fedlens.config.blocks import FAMILIES
    from fedlens.config.plugins import load_plugins
    from fedlens.errors import ConfigError

    load_plugins([plugin])
    module = f"fedlens_plugin_{plugin.stem}"
    found = [
        (family, entry)
        for family in FAMILIES.values()
        for entry in family.registry.entries()
        if entry.factory.__module__ == module
    ]
    if not found:
        raise ConfigError(
            f"{plugin}: registers no block that a configuration chooses: write a line such as @strategies.register(…) "
            "above your class; `fedlens new` writes a first version",
            code="not_found",
            key="FILE",
        )
    return found


def told(name: str, check: Callable[[], None]) -> bool:
    """Whether the check passes; says so."""
    from fedlens.core import clean
    from fedlens.errors import FedLensError

    try:
        check()
    except Exception as error:
        reason = str(error) if isinstance(error, FedLensError) else f"{type(error).__name__}: {error}"
        typer.secho(f"  FAIL  {name}: {clean.line(reason)}", fg=typer.colors.RED)
        return False
    typer.echo(f"  ok    {name}")
    return True
