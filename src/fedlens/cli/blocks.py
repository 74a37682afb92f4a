"""Command-line output about blocks: one line per block in a list, or a full description."""

from __future__ import annotations

import importlib
import inspect
import shutil
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import typer

from fedlens.core.lines import folded
from fedlens.core.words import nearest
from fedlens.errors import ConfigError

if TYPE_CHECKING:
    from fedlens.config.blocks import Family
    from fedlens.core.registry import Entry

EXAMPLES = {"architecture": "convnext_nano"}
"""Values for keys without a default, in examples."""


def list_family(family: Family[Any], width: int) -> None:
    """Print the family's blocks, one per line. `width`: length of the longest name."""
    typer.echo(f"{family.section}.{family.key}")
    for entry in family.registry.entries():
        typer.echo(_fit(f"  {entry.name:{width}}  {entry.summary}", width + 2))


def describe(families: Iterable[Family[Any]], name: str) -> None:
    """Print the full description of the blocks called `name`: purpose, keys, source and an example.

    Raises:
        ConfigError: no family has such a block.
    """

    families = list(families)
    found = [(family, family.registry.get(name)) for family in families if name in family.registry.names()]
    if not found:
        known = [known for family in families for known in family.registry.names()]
        near = nearest(name, known)
        hint = f" Did you mean {near}?" if near else ""
        raise ConfigError(
            f"{name}: there is nothing of that name.{hint} Known: {', '.join(dict.fromkeys(known))}",
            code="unknown_name",
            key=name,
        )
    typer.echo("\n\n".join("\n".join(_fit(line) for line in _about(family, entry)) for family, entry in found))


def _about(family: Family[Any], entry: Entry[Any]) -> Iterator[str]:
    from fedlens.config import problems

    yield f"{family.section}.{family.key}={entry.name}"
    yield entry.summary
    written = inspect.getdoc(entry.factory) or ""
    if not written.startswith(f"{entry.factory.__name__}("):  # the default docstring of a dataclass
        yield f"\n{_paragraphs(written)}"
    nodes = entry.properties
    yield "\nKeys:" if nodes else "\nIt has no keys of its own."
    for key, node in nodes.items():
        default = f"default: {problems.show(node['default'])}" if "default" in node else "needed"
        yield f"  {family.section}.{key}  {problems.allowed(node)}; {default}"
        if "description" in node:
            yield f"      {node['description']}"
    source = inspect.getdoc(importlib.import_module(entry.factory.__module__)) or ""
    yield f"\nFrom: {_paragraphs(source.split(chr(10) * 2)[0])}"
    yield f"\nExample:\n  {example(family, entry)}"


def example(family: Family[Any], entry: Entry[Any]) -> str:
    """An example command that uses the block, with its first keys at their defaults."""

    words = [f"fedlens run {family.section}.{family.key}={entry.name}"]
    for key, node in entry.properties.items():
        if node.get("default") is None and "default" in node:
            continue
        value = node.get("default", EXAMPLES.get(key))
        if isinstance(value, (int, float, str)):
            words.append(f"{family.section}.{key}={str(value).lower() if isinstance(value, bool) else value}")
    return " ".join(words[:3])


def _paragraphs(text: str) -> str:
    """Join the lines of each paragraph, so that they can be wrapped again."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _fit(text: str, hang: int = 2) -> str:
    width = min(shutil.get_terminal_size().columns, 100)
    return "\n".join(folded(line, width, hang if line.startswith("  ") else 0) for line in text.split("\n"))
