"""Writes docs/reference/: every key, strategy, model, source, scheme and command, from the code that defines them.

python tools/write_reference.py          write the pages
python tools/write_reference.py --check  exit with 1 when a page is not what the code says
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import typer
from pydantic_core import PydanticUndefined

from fedlens.config import problems
from fedlens.config.blocks import ALGORITHM, MODEL, SCHEME, SOURCE, Family
from fedlens.config.keys import properties, sections
from fedlens.core.registry import Entry

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
MADE_BY = "<!-- Written by tools/write_reference.py: change the code and run it again. -->\n"
COLUMNS = ("key", "takes", "default", "what it is")


def keys() -> str:
    """All sections and keys of the configuration."""
    parts = [
        "# Configuration keys\n",
        "Every key has a default, so that every key may be left out. Sections that name a block (`model`, `data`, "
        "`data.partition`, and what [strategies](strategies.md) lists) also take that block's own keys: see "
        "[models](models.md), [data sources](sources.md), [partition schemes](schemes.md).\n",
    ]
    top: list[Sequence[str]] = []
    for name, model in sections():
        nodes = properties(model)
        rows = [
            (f"`{key}`", problems.allowed(nodes[key]), _default(field), field.description or "")
            for key, field in model.model_fields.items()
            if "$ref" not in nodes[key] and nodes[key].get("type") != "object"
        ]
        if name:
            parts += [f"## {name}\n", _table(COLUMNS, rows)]
        else:
            top = list(rows)
    parts += ["## Outside the sections\n", _table(COLUMNS, top)]
    return "\n".join(parts)


def _default(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined:
        return "–"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def strategies() -> str:
    head = (
        "Choose one of each section by its name; its own keys stand beside it: `strategy: {name: fedprox, mu: 0.1}`. "
        "What they are for, and what they cost: [strategies](../algorithms.md), "
        "[personalisation](../personalization.md), [aggregation and attacks](../robustness.md), "
        "[schedules and clocks](../asynchronous.md).\n"
    )
    parts = [f"# Strategies and what combines with them\n\n{head}"]
    for family in ALGORITHM:
        parts += [f"\n## `{family.section}`\n", *_blocks(family, level=3)]
    return "\n".join(parts)


def models() -> str:
    head = "Choose one with `model.name`; `timm:<architecture>` stands for any architecture of timm.\n"
    return f"# Models\n\n{head}\n" + "\n".join(_blocks(MODEL))


def sources() -> str:
    head = "Choose one with `data.source`; `auto` looks at what `data.path` holds.\n"
    return f"# Data sources\n\n{head}\n" + "\n".join(_blocks(SOURCE))


def schemes() -> str:
    head = "Choose one with `data.partition.scheme`; `auto` takes the data's own clients, else dirichlet.\n"
    return f"# Partition schemes\n\n{head}\n" + "\n".join(_blocks(SCHEME))


def _blocks(family: Family[Any], level: int = 2) -> Iterator[str]:
    """A section for each block: what it is for, its keys, its docstring, where it is from."""
    for entry in family.registry.entries():
        yield f"{'#' * level} {entry.name}\n\n{_escape(_sentence(entry.summary))}\n"
        yield from _about(entry)
        nodes = entry.properties
        if nodes:
            rows = [
                (f"`{family.section}.{key}`", problems.allowed(node), _given(node), node.get("description", ""))
                for key, node in nodes.items()
            ]
            yield _table(COLUMNS, rows)


def _about(entry: Entry[Any]) -> Iterator[str]:
    """The class' own docstring (dataclasses without one get a signature, which says nothing), and the paper."""
    written = inspect.getdoc(entry.factory) or ""
    if not written.startswith(f"{entry.factory.__name__}("):
        yield f"{_escape(written)}\n"
    paper = inspect.getdoc(importlib.import_module(entry.factory.__module__)) or ""
    yield f"<small>{_escape(paper.split(chr(10) * 2)[0])}</small>\n"


def _given(node: dict[str, Any]) -> str:
    if "default" not in node:
        return "needed"
    value = node["default"]
    return "–" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def commands() -> str:
    """Every command with its arguments and options."""
    from fedlens.cli.main import app

    parts = ["# Commands\n", "`fedlens <command> --help` says the same. `--debug` shows the traceback of an error.\n"]
    for name, command in leaves(typer.main.get_command(app)):
        context = click.Context(command, info_name=name)
        usage = " ".join(command.collect_usage_pieces(context)).replace("[OPTIONS]", "[options]")
        parts.append(f"## {name}\n\n{_escape(_sentence(command.help or ''))}\n\n```text\n{name} {usage}\n```\n")
        rows = [record for parameter in command.params if (record := _parameter(parameter, context))]
        if rows:
            parts.append(_table(("argument or option", "what it is"), rows))
    return "\n".join(parts)


def leaves(command: click.Command, name: str = "fedlens") -> Iterator[tuple[str, click.Command]]:
    """The commands that a user can type, with their full names."""
    if not isinstance(command, click.Group):
        yield name, command
        return
    if command.invoke_without_command and name != "fedlens":
        yield name, command
    for below, inner in command.commands.items():
        yield from leaves(inner, f"{name} {below}")


def _parameter(parameter: click.Parameter, context: click.Context) -> Sequence[str] | None:
    text = getattr(parameter, "help", None) or ""
    if not text or parameter.name == "help":  # an argument that says nothing stands in the usage line already
        return None
    shown = parameter.make_metavar(context)
    names = shown if isinstance(parameter, click.Argument) else " ".join([", ".join(parameter.opts), shown])
    if isinstance(parameter, click.Option) and parameter.is_flag:
        names = ", ".join(parameter.opts)
    return f"`{names}`", text


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".") if text else ""


def _escape(text: str) -> str:
    """Markdown takes <…> for HTML."""
    return re.sub(r"<(?=[a-z])", "&lt;", text)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _cell(text: str) -> str:
    return (text if text.startswith("`") else _escape(text)).replace("|", "\\|")


PAGES: dict[str, Callable[[], str]] = {
    "keys.md": keys,
    "strategies.md": strategies,
    "models.md": models,
    "sources.md": sources,
    "schemes.md": schemes,
    "commands.md": commands,
}


def stale() -> list[Path]:
    """The pages that are not what the code says."""
    return [FOLDER / name for name, make in PAGES.items() if _read(FOLDER / name) != _page(make)]


def _page(make: Callable[[], str]) -> str:
    return MADE_BY + "\n" + make().rstrip() + "\n"


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail when a page is not what the code says"
    )
    if parser.parse_args().check:
        sys.exit("\n".join(f"{path}: run tools/write_reference.py" for path in stale()) or 0)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, make in PAGES.items():
        (FOLDER / name).write_text(_page(make), encoding="utf-8")


if __name__ == "__main__":
    main()
