"""Reading, checking and writing configurations. All mistakes are reported together.

There are three layers, and later ones override earlier ones: a YAML file, arguments from Python, `key.sub=value`
overrides. Relative paths, also those inside a file, are relative to the current folder. If a later layer names another
block (`strategy.name=fedavgm` over a file's fedprox), the parameters of the earlier block are dropped.

A key that is set and has no effect is a mistake (`config.idle` has the rules). If a later layer is the reason, the key
is dropped instead, as a block's parameters are: `data.source=sample` over a file's `path`. A file's keys that only have
an effect for the other of `fedlens run` and `fedlens server` are dropped too, so that one file serves both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from fedlens.config import problems
from fedlens.config.blocks import (
    AUTO,
    FAMILIES,
    PYTHON,
    Family,
    block_keys,
    build_block,
    find,
    text_or_null,
    undecided,
)
from fedlens.config.contradictions import contradictions
from fedlens.config.idle import HandedOver, Idle, Use, idle_keys
from fedlens.config.keys import properties, schema_keys, section_in, sections, value_in
from fedlens.config.overrides import Layer, argument_layer, file_layer, merge, override_layer
from fedlens.config.paths import kept_paths
from fedlens.config.plugins import load_plugins
from fedlens.config.schema import Config
from fedlens.config.settle import settle
from fedlens.core.yaml_text import Key, write_text
from fedlens.errors import ConfigError, Problem

Check = Callable[[Config, Callable[[str], str]], Iterable[Problem]]
"""(a configuration whose block names are all known, dotted key → its place) → its mistakes. The
algorithms' checks are passed in, because this package does not know the algorithms."""


def load_config(
    path: Path | Config | Layer | None = None,
    overrides: Sequence[str] = (),
    extra: Mapping[str, Any] | None = None,
    *,
    check: Check,
    origin: str = "",
    use: Use | None = None,
    given: HandedOver = frozenset(),
    note: Callable[[str], None] = lambda _: None,
) -> Config:
    """The configuration of a run: `path` (YAML, a configuration, or a layer read from elsewhere), overridden by `extra`
    (nested, or dotted keys), overridden by `overrides`.

    Plugins are imported first, so that their blocks are known. Default parameters of blocks are filled in, so that the
    configuration saved with a run is complete.

    check   further checks
    origin  the place where a user gives `extra`, if not in Python
    use     the intended use: keys that only have an effect for the other use are dropped if `path` holds them, else
            they are mistakes
    given   `OWN_DATA`, `OWN_MODEL`: what a Python program passes, in the layer of `extra`
    note    called for keys that are dropped because of `use`

    Raises:
        ConfigError: one line for each mistake: key, value, what is allowed, nearest spelling, place.
    """
    mistakes: list[Problem] = []
    layers = _layers(path, overrides, argument_layer(extra or {}, mistakes, origin), mistakes)
    idle = lambda config: idle_keys(config, use, given)  # noqa: E731
    return _checked(layers, mistakes, idle, check, note=note)


def load_saved_config(path: Path, overrides: Sequence[str] = (), *, check: Check, use: Use | None = None) -> Config:
    """As `load_config`, for a run's own config.yaml. A key in it without effect is dropped: it did not change that run.
    Relative paths are resolved as when the run began, if the result still exists.

    Raises:
        ConfigError: as `load_config`.
    """
    mistakes: list[Problem] = []
    layers = _layers(path, overrides, Layer(), mistakes)
    layers.insert(1, argument_layer(kept_paths(path, layers[0].tree), mistakes))
    return _checked(layers, mistakes, lambda config: idle_keys(config, use), check, saved=True)


def dump(config: Config) -> str:
    """`config` as YAML with every key; `load_config` reads it back as an equal configuration."""
    return write_text(config.model_dump(mode="json"))


def _layers(
    path: Path | Config | Layer | None, overrides: Sequence[str], extra: Layer, mistakes: list[Problem]
) -> list[Layer]:
    """The layers, from the lowest to the highest."""
    if isinstance(path, Layer):
        lowest = path
    elif isinstance(path, Config):
        lowest = argument_layer(path.model_dump(mode="json", exclude_unset=True), mistakes)
    else:
        lowest = Layer() if path is None else file_layer(path)
    return [lowest, extra, override_layer(overrides, mistakes, text_or_null)]


def _checked(
    layers: Sequence[Layer],
    mistakes: list[Problem],
    idle: Callable[[Config], Iterable[Idle]],
    check: Check,
    *,
    saved: bool = False,
    note: Callable[[str], None] = lambda _: None,
) -> Config:
    """The configuration that results from merging `layers`.

    Raises:
        ConfigError: `mistakes`, and one line for each further mistake.
    """
    layer = reduce(lambda lower, upper: merge(lower, upper, _named_blocks()), layers)
    tree = _without_empty_sections(layer.tree)
    found = _schema_mistakes(tree, layer)
    mistakes.extend(found.values())
    plugins_work = "plugins" in found or _load_plugins(tree, layer, mistakes)
    if not found:
        mistakes.extend(contradictions(Config.model_validate(tree), layer.where))
    if plugins_work:
        for family in FAMILIES.values():
            _complete_block(family, tree, layer, mistakes, skip=found)
    if not mistakes:
        mistakes.extend(settle(tree, idle(Config.model_validate(tree)), layers, saved=saved, note=note))
        mistakes.extend(check(Config.model_validate(tree), layer.where))
    if mistakes:
        raise ConfigError(*mistakes)
    return Config.model_validate(tree)


def _load_plugins(tree: Mapping[str, Any], layer: Layer, mistakes: list[Problem]) -> bool:
    paths = TypeAdapter(list[Path]).validate_python(tree.get("plugins", []))
    try:
        load_plugins(paths)
    except ConfigError as error:
        where = layer.where("plugins")
        mistakes.extend(replace(one, line=one.line + (f" ({where})" if where else "")) for one in error.problems)
        return False
    return True


def _schema_mistakes(tree: dict[str, Any], layer: Layer) -> dict[str, Problem]:
    """By dotted key, all mistakes that the schema itself finds."""
    found: dict[str, Problem] = {}
    known = dict(sections())
    try:
        Config.model_validate(tree)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            key, model = _place(detail["loc"], known)
            text = _explain(key, detail["type"], detail["input"], model)
            if detail["type"] == "value_error":
                text = problems.said(detail["msg"])
            a_section = detail["type"] == "extra_forbidden" and isinstance(detail["input"], dict)
            value = ... if a_section else value_in(tree, key)
            code = problems.code_of(detail["type"])
            found.setdefault(key, problems.problem(code, key, text, value, layer.where(key)))
    for at, model in known.items():
        section = value_in(tree, at) if at else tree
        if isinstance(section, dict):
            found |= problems.truth_values(properties(model), section, at, layer.where)
    return found


def _place(loc: tuple[int | str, ...], known: Mapping[str, type[BaseModel]]) -> tuple[str, type[BaseModel]]:
    """The key that an error concerns, and the section that contains it."""
    around = ""
    for part in loc[:-1]:
        inner = f"{around}.{part}".lstrip(".")
        if inner not in known:
            return inner, known[around]
        around = inner
    return f"{around}.{loc[-1]}".lstrip("."), known[around]


def _explain(key: str, kind: str, value: Any, model: type[BaseModel]) -> str:
    if kind == "extra_forbidden":
        return problems.unknown_key(key, list(model.model_fields), [*schema_keys(), *block_keys()])
    if kind == "model_type":
        named = f" Did you mean {key}.{FAMILIES[key].key}?" if key in FAMILIES and isinstance(value, str) else ""
        return f"must be a section of keys.{named}"
    return f"must be {problems.allowed(properties(model)[key.rpartition('.')[2]], value)}"


def _complete_block(
    family: Family[Any], tree: dict[str, Any], layer: Layer, mistakes: list[Problem], skip: Mapping[str, Problem]
) -> None:
    """Check the block that a section names, and fill in its default parameters."""
    section = section_in(tree, family.section)
    given = {key: value for key, value in section.items() if f"{family.section}.{key}" not in skip}
    name = given.get(family.key, family.default)
    if name == AUTO or (name == PYTHON and family.section in ("data", "model")):
        mistakes.extend(undecided(family, given, layer.where))
        return
    if not isinstance(name, str):
        return
    try:
        entry = find(family, name, layer.where)
        block = build_block(family.registry, family.section, name, family.parameters(name, given), layer.where)
    except ConfigError as error:
        mistakes.extend(error.problems)
        return
    values = entry.adapter.dump_python(block, mode="json")
    section.update({key: value for key, value in values.items() if key not in family.own and key not in entry.implied})


def _without_empty_sections(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A copy in which an empty section (`federated:` with nothing below) becomes a section of defaults."""
    names = dict(sections())

    def copy(node: Mapping[str, Any], at: str) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in node.items():
            inner = f"{at}.{key}".lstrip(".")
            empty = value is None and inner in names
            result[key] = copy(value, inner) if isinstance(value, dict) else {} if empty else value
        return result

    return copy(tree, "")


def _named_blocks() -> dict[Key, tuple[str, frozenset[str]]]:
    return {tuple(family.section.split(".")): (family.key, family.own) for family in FAMILIES.values()}
