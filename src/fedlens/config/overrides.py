"""Layers of configuration: a file, then arguments from Python, then `key.sub=value` from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fedlens.config import problems
from fedlens.core.yaml_text import Key, parse_value, read_file
from fedlens.errors import ConfigError, Problem

COMMAND_LINE = "command line"

TextOrNull = Callable[[str], bool | None]
"""Of a dotted key: whether it may be null, if its value is text, used as typed; None: the value is parsed as YAML."""


@dataclass
class Layer:
    """A tree of values, and the place of each ("config.yaml, line 3"; "command line")."""

    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[Key, str] = field(default_factory=dict)

    def where(self, dotted: str) -> str:
        """The place of a key, else of a key below it, else of its section. If part of the section was set on the
        command line, the section's place is the command line."""
        key = tuple(dotted.split("."))
        if key in self.origins:
            return self.origins[key]
        for length in range(len(key), 0, -1):
            below = [origin for other, origin in self.origins.items() if other[:length] == key[:length]]
            if below:
                return COMMAND_LINE if COMMAND_LINE in below else below[0]
        return ""


def file_layer(path: Path) -> Layer:
    """The tree of a configuration file.

    Raises:
        ConfigError: as `text.read_file`.
    """
    text = read_file(path)
    return Layer(_nested(text.tree), {key: f"{path}, line {line}" for key, line in text.lines.items()})


def section_layer(path: Path, section: str) -> Layer:
    """The configuration under one key of another file, nested or under dotted keys; empty where the file does not have
    that key.

    Raises:
        ConfigError: as `text.read_file`, or what is there has no keys.
    """
    text = read_file(path)
    tree, mistakes = text.tree.get(section, {}), list[Problem]()
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{path}: {section}: needs keys with values", code="syntax", key=str(path))
    layer = argument_layer(tree, mistakes)
    if mistakes:
        raise ConfigError(*mistakes)
    for (first, *below), line in text.lines.items():
        if first == section and below:
            layer.origins[tuple(".".join(below).split("."))] = f"{path}, line {line}"
    return layer


def argument_layer(values: Mapping[str, Any], mistakes: list[Problem], origin: str = "") -> Layer:
    """Values from Python, nested or under dotted keys. `origin`: where a user has given them, if not in Python."""
    layer = Layer()
    for name, value in values.items():
        key = tuple(str(name).split("."))
        _put(layer.tree, key, value, mistakes, origin)
        if origin:
            layer.origins[key] = origin
    return layer


def override_layer(overrides: Sequence[str], mistakes: list[Problem], text_or_null: TextOrNull) -> Layer:
    """`key.sub=value` texts; of equal keys the last one applies. Adds to `mistakes`."""
    layer = Layer()
    for override in overrides:
        name, equals, text = override.partition("=")
        key = tuple(name.strip().split("."))
        if not equals or not all(key):
            mistakes.append(Problem("syntax", override, f"{override!r}: must be key.sub=value ({COMMAND_LINE})"))
            continue
        try:
            null = text_or_null(".".join(key))
            value = parse_value(text) if null is None else as_typed(text, null=null)
        except ValueError as error:
            mistakes.append(problems.problem("missing", name, str(error), text, COMMAND_LINE))
        except yaml.YAMLError as error:
            mistakes.append(problems.problem("syntax", name, _not_yaml(name, error), text, COMMAND_LINE))
        else:
            _put(layer.tree, key, value, mistakes, COMMAND_LINE)
            layer.origins[key] = COMMAND_LINE
    return layer


def as_typed(text: str, *, null: bool = True) -> str | None:
    """The value of a text key, as typed, with two exceptions: `null` means None if that is allowed, and quotes around
    the whole value, which remain when a shell argument is quoted twice, are removed.

    Raises:
        ValueError: it is empty, as from an unset shell variable.
    """
    if not text:
        raise ValueError("is empty, as with a variable that is not set; give a value, or leave the key out")
    if null and text == "null":
        return None
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        with suppress(yaml.YAMLError):
            inner = parse_value(text)
            return inner if isinstance(inner, str) else text
    return text


def _not_yaml(name: str, error: yaml.YAMLError) -> str:
    reason = error.problem if isinstance(error, yaml.MarkedYAMLError) else str(error)
    return f"is not YAML ({reason}); put it in quotes: '{name}=\"…\"'"


def quoted(text: str) -> str:
    """`text` as an override of a text key: quoted if it would otherwise be read as something else."""
    return text if text and as_typed(text) == text else json.dumps(text)


def merge(lower: Layer, upper: Layer, blocks: Mapping[Key, tuple[str, frozenset[str]]]) -> Layer:
    """Merge two layers; `upper` overrides `lower`.

    blocks  for each section that names a block, the key that names it and the section's own keys. If `upper` names
            another block than `lower`, the parameters of `lower`'s block are dropped.
    """
    return Layer(_merge(lower.tree, upper.tree, (), blocks), {**lower.origins, **upper.origins})


def _merge(
    lower: dict[str, Any], upper: dict[str, Any], at: Key, blocks: Mapping[Key, tuple[str, frozenset[str]]]
) -> dict[str, Any]:
    merged = dict(lower)
    if at in blocks:
        name, own = blocks[at]
        if name in upper and lower.get(name, "auto") not in ("auto", upper[name]):
            merged = {key: value for key, value in lower.items() if key in own}
    for key, value in upper.items():
        below = merged.get(key)
        both = isinstance(value, dict) and isinstance(below, dict)
        merged[key] = _merge(below, value, (*at, key), blocks) if both else value  # type: ignore[arg-type]
    return merged


def _put(tree: dict[str, Any], key: Key, value: Any, mistakes: list[Problem], where: str) -> None:
    """Set `key` in `tree`, creating sections as needed; a mapping is merged into what is there."""
    for depth, part in enumerate(key[:-1], start=1):
        below = tree.setdefault(part, {})
        if not isinstance(below, dict):
            text = f"{'.'.join(key[:depth])} is set to a value, so it has no keys below it"
            mistakes.append(problems.problem("wrong_type", ".".join(key), text, value, where))
            return
        tree = below
    old = tree.get(key[-1])
    value = _nested(value) if isinstance(value, Mapping) else value
    tree[key[-1]] = _merge(old, value, (), {}) if isinstance(old, dict) and isinstance(value, dict) else value


def _nested(tree: Mapping[Any, Any]) -> dict[str, Any]:
    """Nested plain dictionaries with text keys."""
    return {str(key): _nested(value) if isinstance(value, Mapping) else value for key, value in tree.items()}
