"""YAML with the number rules of YAML 1.2 (1e-3 is a number), an error for repeated keys, and the line of every key.

PyYAML follows YAML 1.1, where `1e-3` is text, `010` is eight, `1:30` is ninety, `no` is false and 2024-01-01 is a
date. Here plain scalars follow the core schema of YAML 1.2; `yes` and `no` stay text, which boolean keys accept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fedlens.core.files import read_regular
from fedlens.errors import ConfigError

Key = tuple[str, ...]
"""Where a value lives: ("data", "partition", "alpha")."""

LONGEST = 256_000
"""Bytes of a configuration file that are read at most. YAML is parsed slowly: so many take a second or two."""

MOST_VALUES = 100_000
"""Values that a text may hold when its aliases (`*name`) are written out."""

MOST_DIGITS = 100

_CONSTRUCTORS_FAIL = (ValueError, TypeError, AttributeError, OverflowError)
"""What PyYAML raises of a text with an explicit tag that does not fit, such as `!!int many`."""


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2."""


_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:fedlens,1:int", re.compile(r"^[-+]?[0-9]+(?:_[0-9]+)*$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:fedlens,1:float",
    re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+.0123456789"),
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"^<<$"), ["<"])


def _integer(_: _Loader, node: yaml.ScalarNode) -> int:
    digits = len(node.value)
    if digits > MOST_DIGITS:
        problem = f"a number of {digits:,} digits; at most {MOST_DIGITS} are read"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    return int(node.value)


_Loader.add_constructor("tag:fedlens,1:int", _integer)
_Loader.add_constructor("tag:fedlens,1:float", lambda _, node: float(re.sub(r"\.(inf|nan)", r"\1", node.value.lower())))


class _QuickLoader(getattr(yaml, "CSafeLoader", _Loader)):  # type: ignore[misc]
    """The same in C, where PyYAML was built so: five times as fast."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers
    yaml_constructors = _Loader.yaml_constructors


_DEEP = 500
"""Nested values at which `_QuickLoader` is not used: many thousands would end the process."""


@dataclass(frozen=True)
class Text:
    """A parsed YAML text: the tree, and the line of each key."""

    tree: dict[str, Any] = field(default_factory=dict)
    lines: Mapping[Key, int] = field(default_factory=dict)


def read_file(path: Path) -> Text:
    """Parse a configuration file, which may be malformed or hostile.

    Raises:
        ConfigError: it is not there, no regular file, too long, not UTF-8, not YAML (line and column are given), a key
            occurs twice, or aliases expand to too many values.
    """
    try:
        content = read_regular(path, LONGEST).decode("utf-8")
    except FileNotFoundError as error:
        raise ConfigError(_missing(path), code="not_found", key=str(path)) from error
    except IsADirectoryError as error:
        raise ConfigError(
            f"{path}: is a folder; give the configuration file itself", code="unreadable", key=str(path)
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8", code="unreadable", key=str(path)
        ) from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})", code="unreadable", key=str(path)) from error
    return _parse_document(content, str(path))


def parse_value(text: str) -> Any:
    """One YAML value, as on the command line.

    Raises:
        yaml.YAMLError: it is not YAML, or as `read_file` says of aliases and nesting.
    """
    try:
        loader, node = _composed(text)
        if node is None:
            return None
        _written_out(node, {})
        return loader.construct_document(node)
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error
    except _CONSTRUCTORS_FAIL as error:
        raise yaml.YAMLError(str(error)) from error


def _composed(text: str) -> tuple[Any, yaml.Node | None]:
    """The text's root node, and the loader that makes values of it.

    Raises:
        yaml.YAMLError: it is not YAML; or a character that YAML does not allow, such as a zero byte.
    """
    if found := yaml.reader.Reader.NON_PRINTABLE.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise yaml.YAMLError(f"the control character U+{ord(found[0]):04X} in line {line:,}")
    if not could_be_deep(text):
        with suppress(yaml.YAMLError):  # the other one says better what is wrong, and where
            quick = _QuickLoader(text)
            return quick, quick.get_single_node()
    loader = _Loader(text)
    return loader, loader.get_single_node()


def could_be_deep(text: str) -> bool:
    """A nested value needs a sign that opens it, or more indentation than the one around it."""
    indentation = max((len(line) - len(line.lstrip(" ")) for line in text.splitlines()), default=0)
    return indentation + len(re.findall(r"[\[{?-]", text)) > _DEEP


def write_text(tree: Mapping[str, Any]) -> str:
    """`tree` as YAML, keys in their order; text that this module would read as a number is quoted."""
    return yaml.dump(dict(tree), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Quotes text that either the 1.1 or the 1.2 rules would read back as something else."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        special = any(pattern.match(data) for _, pattern in _Loader.yaml_implicit_resolvers.get(data[:1], ()))
        return self.represent_scalar("tag:yaml.org,2002:str", data, style="'" if special else None)


_Dumper.add_representer(str, _Dumper.represent_str)


def _parse_document(content: str, name: str) -> Text:
    try:
        loader, node = _composed(content)
        if node is None:
            return Text()
        _written_out(node, {})
        lines: dict[Key, int] = {}
        _scan(node, (), lines, name)
        tree = loader.construct_document(node)
    except RecursionError as error:
        raise ConfigError(f"{name}: is nested too deeply", code="syntax", key=name) from error
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_broken(name, error), code="syntax", key=name) from error
    except (yaml.YAMLError, *_CONSTRUCTORS_FAIL) as error:
        raise ConfigError(f"{name}: is not YAML ({error})", code="syntax", key=name) from error
    if tree is None:
        return Text()
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{name}: must hold sections such as `model:`, but holds a {type(tree).__name__}",
            code="wrong_type",
            key=name,
        )
    return Text(tree, lines)


def _written_out(node: yaml.Node, sizes: dict[int, int]) -> int:
    """How many values `node` holds with its aliases written out. `sizes`: of nodes that are done, 0 while counted.

    Raises:
        yaml.YAMLError: an alias refers to itself, or there are more than `MOST_VALUES`.
    """
    if id(node) not in sizes:
        sizes[id(node)] = 0
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        children = (child for item in inner for child in (item if isinstance(item, tuple) else (item,)))
        sizes[id(node)] = 1 + sum(_written_out(child, sizes) for child in children)
    elif not sizes[id(node)]:
        raise yaml.MarkedYAMLError(problem="an alias (`*name`) refers to itself", problem_mark=node.start_mark)
    if sizes[id(node)] > MOST_VALUES:
        problem = f"with its aliases (`*name`) written out it holds more than {MOST_VALUES:,} values"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    return sizes[id(node)]


def _scan(node: yaml.Node, at: Key, lines: dict[Key, int], name: str) -> None:
    """Note the line of every key below `node`.

    Raises:
        ConfigError: a key occurs twice in one section.
    """
    if not isinstance(node, yaml.MappingNode):
        return
    for key_node, value in node.value:
        key, line = (*at, str(key_node.value)), key_node.start_mark.line + 1
        if key in lines and key_node.tag != "tag:yaml.org,2002:merge":
            raise ConfigError(
                f"{name}, line {line}: {'.'.join(key)} is given twice (first in line {lines[key]})",
                code="duplicate",
                key=".".join(key),
            )
        lines[key] = line
        _scan(value, key, lines, name)


def _broken(name: str, error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{name}{where}: is not YAML: {error.problem or error.context}"


def _missing(path: Path) -> str:
    beside = sorted(str(file) for file in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
    ways = f"Beside it: {', '.join(beside[:8])}" if beside else "Without a file, `fedlens run` uses the defaults."
    return f"{path}: no such file. {ways}"
