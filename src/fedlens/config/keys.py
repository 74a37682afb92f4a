"""All configuration keys by their dotted names, for spelling hints and for checking values."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic import BaseModel

from fedlens.config import problems
from fedlens.config.schema import Config


def sections(model: type[BaseModel] = Config, at: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Dotted name and model of every section; the whole configuration is ""."""
    yield at, model
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from sections(field.annotation, f"{at}.{name}".lstrip("."))


@cache
def properties(model: type[BaseModel]) -> dict[str, Any]:
    """JSON schema of each key of a section; not to be changed."""
    found: dict[str, Any] = model.model_json_schema().get("properties", {})
    return found


def text_key(model: type[BaseModel], dotted: str) -> bool | None:
    """Whether the value of a key may be null, if it is text or a path; None: it is neither."""
    at, _, name = dotted.rpartition(".")
    section = dict(sections(model)).get(at)
    node = {} if section is None else properties(section).get(name, {})
    return problems.takes_null(node) if problems.is_text(node) else None


def schema_keys() -> list[str]:
    """The dotted keys of the schema, without those of blocks."""
    return [f"{at}.{name}".lstrip(".") for at, model in sections() for name in model.model_fields]


def section_in(tree: dict[str, Any], dotted: str) -> dict[str, Any]:
    """The section `dotted` of `tree`, created if missing; an empty one if there is a value in its place."""
    for part in dotted.split("."):
        below = tree.setdefault(part, {})
        if not isinstance(below, dict):
            return {}
        tree = below
    return tree


def value_in(tree: Any, dotted: str) -> Any:
    """The value under the dotted key; `...` if there is none."""
    for part in dotted.split("."):
        if not isinstance(tree, dict) or part not in tree:
            return ...
        tree = tree[part]
    return tree
