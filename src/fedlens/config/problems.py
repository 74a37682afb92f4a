"""Error lines: the key, the given value, what is allowed, the nearest spelling, and the place."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedlens.core.words import nearest
from fedlens.errors import Code, Problem

_LONGEST_VALUE = 60

_OTHER_NAMES = {
    "learning_rate": "optimizer.lr",
    "epochs": "federated.local_epochs",
    "num_clients": "data.partition.clients",
    "num_epochs": "federated.local_epochs",
    "rounds": "federated.num_rounds",
    "output_dir": "tracking.dir",
    "log_dir": "tracking.dir",
}


_CODES: Mapping[str, Code] = {
    "extra_forbidden": "unknown_key",
    "unexpected_keyword_argument": "unknown_key",
    "missing": "missing",
    "missing_argument": "missing",
    "literal_error": "unknown_choice",
    "value_error": "invalid_value",
    "string_pattern_mismatch": "invalid_value",
}
"""Code for a type of pydantic's errors."""

_LIMITS = frozenset(
    {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number"}
    | {"too_short", "too_long", "string_too_short", "string_too_long"}
)


def problem(code: Code, key: str, text: str, value: Any = ..., where: str = "") -> Problem:
    """`key = value: text (where)`; without a value (`...`), `key: text (where)`."""
    given = "" if value is ... else f" = {show(value)}"
    return Problem(code, key, f"{key}{given}: {text}" + (f" ({where})" if where else ""))


def incompatible(section: str, reason: str) -> Problem:
    """The problem for what a block's `incompatibility` gives: a reason that begins with the block's key at fault."""
    return Problem("incompatible", f"{section}.{re.split('[ :=]', reason, maxsplit=1)[0]}", f"{section}.{reason}")


def code_of(pydantic_type: str) -> Code:
    """The code for a type of pydantic's errors; those that are not listed concern the type of the value."""
    return "out_of_range" if pydantic_type in _LIMITS else _CODES.get(pydantic_type, "wrong_type")


def said(message: str) -> str:
    """The message of one of our validators, without pydantic's prefix."""
    return message.removeprefix("Value error, ")


def show(value: Any) -> str:
    """A value as the user wrote it, shortened."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"


def unknown_key(key: str, here: Sequence[str], everywhere: Sequence[str] = ()) -> str:
    """The error text for a key that does not exist.

    here        keys that exist in the same section
    everywhere  all dotted keys, for one that was put in the wrong section
    """
    found = _meant(key, here, everywhere)
    hint = f" Did you mean {' or '.join(found[:3])}?" if found else ""
    return f"unknown key.{hint} Known here: {', '.join(here)}"


def _meant(key: str, here: Sequence[str], everywhere: Sequence[str]) -> list[str]:
    """Suggestions: keys here that start with the word and the same word in other sections; else a synonym; else the
    nearest spelling here, then anywhere."""
    section, _, word = key.rpartition(".")
    begun = [f"{section}.{other}".lstrip(".") for other in here if other.startswith(word)]
    elsewhere = [other for other in everywhere if other.rpartition(".")[2] == word]
    if elsewhere:
        return begun + elsewhere
    if word in _OTHER_NAMES:
        return [_OTHER_NAMES[word]]
    near = nearest(word, here)
    if near:
        return [f"{section}.{near}".lstrip(".")]
    by_word = {other.rpartition(".")[2]: other for other in everywhere}
    far = nearest(word, by_word)
    return [by_word[far]] if far else []


def allowed(schema: Mapping[str, Any], value: Any = ...) -> str:
    """What a JSON schema node allows, in words; for choices, with the spelling nearest to `value`."""
    if "anyOf" in schema:
        options = [option for option in schema["anyOf"] if option.get("type") != "null"]
        null = ["null"] if len(options) < len(schema["anyOf"]) else []
        return " or ".join([*(allowed(option, value) for option in options), *null])
    if "enum" in schema or "const" in schema:
        return _choices(schema.get("enum") or [schema["const"]], value)
    kind = str(schema.get("type", ""))
    if kind == "array":
        return f"a list, each item {allowed(schema.get('items', {}))}"
    if kind == "string" and schema.get("format", "").endswith("path"):
        return "a path"
    words = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "text"}
    examples = f" such as {', '.join(schema['examples'])}" if "examples" in schema else ""
    return f"{words.get(kind, 'a section of keys')} {_range(schema)}{examples}".replace("  ", " ").rstrip()


def _choices(names: list[Any], value: Any) -> str:
    if len(names) == 1:
        return str(names[0])
    near = nearest(str(value), map(str, names))
    hint = f" (did you mean {near}?)" if near and near != value else ""
    return f"one of {', '.join(map(str, names))}{hint}"


def _range(schema: Mapping[str, Any]) -> str:
    if "minimum" in schema and "maximum" in schema:
        return f"from {_bound(schema['minimum'])} to {_bound(schema['maximum'])}"
    words = {"minimum": "of at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    return " and ".join(f"{word} {_bound(schema[key])}" for key, word in words.items() if key in schema)


def _bound(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def is_text(schema: Mapping[str, Any]) -> bool:
    """Whether a JSON schema node accepts text (a path, a choice) or null, and nothing else."""
    kinds = {option.get("type") for option in schema.get("anyOf", (schema,))} - {"null"}
    return kinds == {"string"}


def takes_null(schema: Mapping[str, Any]) -> bool:
    return any(option.get("type") == "null" for option in schema.get("anyOf", ()))


def truth_values(
    nodes: Mapping[str, Any], given: Mapping[str, Any], section: str, where: Callable[[str], str]
) -> dict[str, Problem]:
    """By dotted key, the values of a section that are true or false where a number belongs, which pydantic takes for 1
    and 0. Its strict numbers would also refuse 1e3 for a whole number, and miss a plugin's plain `int`.

    nodes  JSON schema of each key of the section
    """
    found = {}
    for name, value in given.items():
        node = nodes.get(name, {})
        kinds = {option.get("type") for option in (node, *node.get("anyOf", ()))}
        if isinstance(value, bool) and "boolean" not in kinds and kinds & {"integer", "number"}:
            key = f"{section}.{name}".lstrip(".")
            found[key] = problem("wrong_type", key, f"must be {allowed(node)}", value, where(key))
    return found
