"""The hyper-parameters of a run, for comparisons of runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from typing import Any

from fedlens.config.blocks import AUTO, FAMILIES, find
from fedlens.config.schema import Config
from fedlens.core.trees import flat
from fedlens.errors import ConfigError

FIRST = ("strategy.name", "seed")
"""Always included, before all others."""

Value = str | float | bool


def hyper_parameters(config: Config) -> dict[str, Value]:
    """Dotted key → value for `FIRST` and for every key with a non-default value, except keys for file locations and
    runtimes."""
    own = {"tracking", "plugins", "runtime"}
    given = _values(config.model_dump(mode="json", exclude=own))
    plain = _values(Config().model_dump(mode="json")) | dict(_defaults(given))
    differing = {key: value for key, value in given.items() if key not in plain or plain[key] != value}
    return {key: given[key] for key in FIRST} | differing


def all_parameters(config: Config) -> dict[str, Value]:
    """Dotted key → value for every key of `parameter_tree`."""
    return _values(parameter_tree(config))


def parameter_tree(config: Config) -> dict[str, Any]:
    """Every key that is set, in its section; lists as JSON. File locations, runtimes and addresses are left out: they
    say nothing of the experiment, and may go to another machine."""
    places: Any = {"data": {"path", "cache_dir"}, "model": {"weights"}}
    own = dict.fromkeys(("tracking", "plugins", "runtime", "server"), True)
    return _without_lists(config.model_dump(mode="json", exclude=places | own, exclude_none=True))


def _without_lists(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_lists(value)
        if isinstance(value, Mapping)
        else json.dumps(value, ensure_ascii=False)
        if isinstance(value, list)
        else value
        for key, value in tree.items()
    }


def _defaults(given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The default parameters of the chosen blocks."""
    for family in FAMILIES.values():
        name = str(given[f"{family.section}.{family.key}"])
        if name == AUTO:
            continue
        try:
            entry = find(family, name)
        except ConfigError:  # a block that only the user's own Python code registers
            continue
        for field in fields(entry.factory):
            if field.name not in family.own and field.default is not MISSING:
                yield f"{family.section}.{field.name}", field.default


def _values(tree: Mapping[str, Any]) -> dict[str, Value]:
    """Dotted key → value; lists, and what is not set, are left out."""
    return {key: value for key, value in flat(tree).items() if isinstance(value, (str, int, float))}
