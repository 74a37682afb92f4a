"""Setting keys in a YAML file as a person would: comments, order and everything else stay as they are.

Only the text of a value is replaced, or a line is added at the end of its section. What results is parsed again, and is
written only if it says the old text with the new values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fedlens.core.files import read_regular, write_atomic
from fedlens.core.yaml_text import LONGEST, parse_value
from fedlens.errors import ConfigError

INDENT = "  "


def read_text(path: Path) -> str:
    """The file as it is, for `write_values`.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return read_regular(path, LONGEST).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})", code="unreadable", key=str(path)) from error


def write_values(path: Path, before: str, values: Mapping[str, Any]) -> None:
    """Set `values`, by dotted key, in the file, whose text was `before`. A link stays a link.

    Raises:
        ConfigError: the file has changed meanwhile, cannot be written, or has a form in which no line can be added; it
            is left as it is.
    """
    target = path.resolve()
    after = with_values(before, values)
    if after is None:
        raise ConfigError(
            f"{path}: the lines cannot be added to this file without writing it anew (anchors, perhaps); add them by "
            "hand",
            code="unwritable",
            key=str(path),
        )
    if read_text(target) != before:
        raise ConfigError(
            f"{path}: has changed while it was measured, and is left as it is; add the lines by hand, or measure again",
            code="in_use",
            key=str(path),
        )
    try:
        mode = target.stat().st_mode
        write_atomic(target, after.encode("utf-8"))
        target.chmod(mode)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written ({error.strerror}); add the lines by hand", code="unwritable", key=str(path)
        ) from error


def with_values(text: str, values: Mapping[str, Any]) -> str | None:
    """`text` with `values` set, by dotted key; None where it has a form that this cannot change."""
    wanted = parse_value(text) or {}
    for key, value in values.items():
        *sections, last = key.split(".")
        below = wanted
        for section in sections:
            if not isinstance(below.get(section), dict):
                below[section] = {}
            below = below[section]
        below[last] = value
        text = _set(text, tuple(key.split(".")), json.dumps(value))
    try:
        return text if parse_value(text) == wanted else None
    except yaml.YAMLError:
        return None


def _set(text: str, key: tuple[str, ...], value: str) -> str:
    """`text` with one key set."""
    node, depth = yaml.compose(text, Loader=yaml.SafeLoader), 0
    while isinstance(node, yaml.MappingNode) and depth < len(key):
        found = next((value for name, value in node.value if name.value == key[depth]), None)
        if found is None or (depth < len(key) - 1 and not isinstance(found, yaml.MappingNode)):
            break
        node, depth = found, depth + 1
    if node is not None and depth == len(key):
        return _replaced(text, node, value)
    if not isinstance(node, yaml.MappingNode):
        return _ended(text) + _lines(key, value, "")
    empty = next((name for name, _ in node.value if name.value == key[depth]), None)
    if empty is not None:  # a section without keys: `memory:`
        at = text.index(":", empty.end_mark.index) + 1
        return _after_line(text, at, _lines(key[depth + 1 :], value, " " * empty.start_mark.column + INDENT))
    if node.flow_style:
        end = node.end_mark.index - 1
        comma = ", " if node.value else ""
        return text[:end].rstrip() + comma + _in_flow(key[depth:], value) + text[end:]
    return _after_line(text, _end(node.value[-1]), _lines(key[depth:], value, " " * node.start_mark.column))


def _replaced(text: str, node: yaml.Node, value: str) -> str:
    start, end = node.start_mark.index, node.end_mark.index
    space = " " if start and text[start - 1] == ":" else ""  # `key:` without a value
    return text[:start] + space + value + text[end:]


def _end(pair: tuple[yaml.Node, yaml.Node]) -> int:
    """Where the text of the last key of a section ends, without comments and empty lines that follow it."""
    name, value = pair
    if isinstance(value, yaml.CollectionNode) and not value.flow_style and value.value:
        last = value.value[-1]
        return _end(last) if isinstance(last, tuple) else _end((last, last))
    return max(name.end_mark.index, value.end_mark.index)


def _after_line(text: str, index: int, lines: str) -> str:
    """`text` with `lines` after the line in which `index` is."""
    end = text.find("\n", index)
    return _ended(text) + lines if end < 0 else text[: end + 1] + lines + text[end + 1 :]


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"


def _lines(key: tuple[str, ...], value: str, indent: str) -> str:
    """The lines of a key below its sections."""
    names = [f"{indent}{INDENT * depth}{name}:" for depth, name in enumerate(key)]
    return "\n".join(names) + f" {value}\n"


def _in_flow(key: tuple[str, ...], value: str) -> str:
    for name in reversed(key):
        value = f"{{{name}: {value}}}"
    return value[1:-1]
