"""`fedlens new`: files to begin with."""

from __future__ import annotations

import keyword
import shlex
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer


class Kind(StrEnum):
    """What there is a start for. The first three are families of blocks (`config.blocks.FAMILIES`)."""

    STRATEGY = "strategy"
    MODEL = "model"
    SOURCE = "source"
    EXPERIMENT = "experiment"


def new(
    kind: Annotated[Kind, typer.Argument(help="What to begin: a block of your own, or a comparison of methods.")],
    name: Annotated[str, typer.Argument(help="Its name, as in a program: my_strategy.")],
    folder: Annotated[Path | None, typer.Option("--in", help="Where to write (default: a new folder NAME).")] = None,
) -> None:
    """Write the first version of your own strategy, model, data source or experiment: a Python file, a configuration
    that uses it, and a test that passes. Nothing is overwritten."""
    from fedlens.errors import ConfigError

    if mistake := wrong_name(kind, name):
        raise ConfigError(mistake, code="invalid_value", key="NAME")
    place = folder or Path(name)
    texts = {place / file: text for file, text in written(kind, name).items()}
    if there := [str(path) for path in texts if path.exists()]:
        raise ConfigError(
            f"{', '.join(there)}: there already, and nothing is overwritten; choose another name, or another folder by "
            "--in FOLDER",
            code="contradiction",
            key="NAME",
        )
    try:
        place.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")
            typer.echo(str(path))
    except OSError as error:
        raise ConfigError(
            f"{place}: cannot be written ({error.strerror}); choose another folder by --in FOLDER",
            code="unwritable",
            key="NAME",
        ) from error
    typer.echo("Next:")
    first = f"python {name}.py" if kind is Kind.EXPERIMENT else "fedlens run config.yaml"
    for command in (f"cd {shlex.quote(str(place))}", first, f"python -m pytest test_{name}.py"):
        typer.echo(f"  {command}")


def wrong_name(kind: Kind, name: str) -> str | None:
    """Why `name` cannot be taken; None if it can."""
    if not (name.isascii() and name.isidentifier() and name.islower()) or keyword.iskeyword(name):
        return (
            f"{name!r} is no name for Python code: use small letters, digits and _, a letter first, such as my_{kind}"
        )
    if kind is not Kind.EXPERIMENT and (known := _named_so(name)):
        return f"{name} is a {known} of FedLens already; choose another name, such as my_{name}"
    return None


def _named_so(name: str) -> str | None:
    """The kind of a block that has this name."""
    from fedlens.config.blocks import FAMILIES

    families = (family.registry for family in FAMILIES.values())
    return next((registry.kind for registry in families if name in registry.names()), None)


def written(kind: Kind, name: str) -> dict[str, str]:
    """File name → its text."""
    class_name = "".join(word.capitalize() for word in name.split("_")) or "Own"
    starters = files("fedlens.cli") / "starters"
    found = {f"{name}.py": f"{kind}.py", "config.yaml": f"{kind}.yaml", f"test_{name}.py": f"test_{kind}.py"}
    return {
        file: (starters / f"{starter}.txt")
        .read_text(encoding="utf-8")
        .replace("my_name", name)
        .replace("MyName", class_name)
        for file, starter in found.items()
    }
