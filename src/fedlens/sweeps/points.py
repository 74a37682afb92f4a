"""The points of a sweep: which runs, and what each is called.

An axis is a list of choices; the points are all combinations of one choice from each axis. A key with several values is
an axis, lists that go together are one, and named cases are one.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from fedlens.config.overrides import COMMAND_LINE, Layer
from fedlens.config.schema import Config
from fedlens.core.words import short_names
from fedlens.errors import ConfigError, Problem

RANGE = re.compile(r"(-?\d+):(-?\d+)")
"""seed=0:5 is 0, 1, 2, 3, 4."""

CONFIG = "config"
"""What a sweep's file says for all points."""


@dataclass(frozen=True)
class Choice:
    """values: by key. overrides: "key=value", where a case was written so. name: of a case; else the values say it."""

    values: Mapping[str, Any] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    name: str = ""

    @property
    def keys(self) -> tuple[str, ...]:
        return (*self.values, *(override.partition("=")[0] for override in self.overrides))

    def words(self, short: Mapping[str, str]) -> str:
        """Its part of a label. short: key → short name."""
        return self.name or " ".join(f"{short[key]}={value}" for key, value in self.values.items())


Axis = Sequence[Choice]


@dataclass(frozen=True)
class Point:
    """One run. label: what differs from the other points, "lr=0.1 seed=1"; also the name of the run's folder."""

    label: str
    config: Config


def points(path: Path | Layer | None, fixed: Sequence[str], axes: Sequence[Axis], folder: str) -> list[Point]:
    """Every combination, checked, over the configuration of `path`; their runs lie in `folder`, inside tracking.dir.

    Raises:
        ConfigError: a combination is invalid, or there is nothing to combine; nothing has run yet.
    """
    from fedlens.build.load import load

    if not axes:
        raise ConfigError(
            "nothing to sweep over: give at least one key several values, such as seed=0,1,2", code="missing"
        )
    check_once(axes, fixed)
    found: list[Point] = []
    mistakes: dict[object, Problem] = {}
    short = short_names(key for axis in axes for choice in axis for key in choice.values)
    for chosen in product(*axes):
        values = {key: value for choice in chosen for key, value in choice.values.items()}
        overrides = [*fixed, *(override for choice in chosen for override in choice.overrides)]
        try:
            config = load(path, overrides, values, origin=COMMAND_LINE, use="run")
        except ConfigError as error:
            mistakes |= {_same(problem): problem for problem in error.problems}
            continue
        label = " ".join(choice.words(short) for choice in chosen)
        found.append(Point(label, placed(config, dir=config.tracking.dir / folder, name=label)))
    if mistakes:
        raise ConfigError(*mistakes.values())
    return found


def placed(config: Config, **place: Any) -> Config:
    """`config` with other keys of `tracking`: where the run lies, and what it is called."""
    return config.model_copy(update={"tracking": config.tracking.model_copy(update=place)})


def _same(problem: Problem) -> object:
    """An unknown key is one mistake, whatever its values are."""
    return problem.key if problem.code == "unknown_key" else problem


def many(axes: Sequence[Axis]) -> int:
    """How many points there are."""
    count = 1
    for axis in axes:
        count *= len(axis)
    return count


# -- where axes are written --------------------------------------------------------------------------------------------


def listed(overrides: Iterable[str]) -> tuple[list[Axis], list[str]]:
    """An axis for each key with several values, and the overrides with one value."""
    axes: list[Axis] = []
    fixed = []
    for override in overrides:
        key, values = _split(override)
        if len(values) > 1:
            axes.append([Choice({key: value}) for value in values])
        else:
            fixed.append(override)
    return axes, fixed


def zipped(text: str) -> Axis:
    """ "model.name=lenet,cnn optimizer.lr=0.1,0.01": lists that go together, the first with the first.

    Raises:
        ConfigError: they have different lengths, or there is only one.
    """
    lists = dict(_split(override) for override in shlex.split(text))
    lengths = {key: len(values) for key, values in lists.items()}
    if len(lists) < 2 or len(set(lengths.values())) > 1:
        told = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        raise ConfigError(
            f"--zip {text!r}: needs two or more lists of the same length ({told})", code="contradiction", key="--zip"
        )
    return [Choice(dict(zip(lists, values, strict=True))) for values in zip(*lists.values(), strict=True)]


def cases(texts: Iterable[str]) -> Axis:
    """ "fedper: personalization.name=fedper optimizer.lr=0.1": a name, and overrides of any keys.

    Raises:
        ConfigError: a text has another form, or a name comes twice.
    """
    found: dict[str, Choice] = {}
    for text in texts:
        name, colon, rest = (part.strip() for part in text.partition(":"))
        if not (name and colon) or name in found:
            reason = "this name comes twice" if name in found else 'write "NAME: key=value key=value"'
            raise ConfigError(f"--case {text!r}: {reason}", code="syntax", key="--case")
        found[name] = Choice(overrides=tuple(shlex.split(rest)), name=name)
    return list(found.values())


def from_file(path: Path) -> list[Axis]:
    """The axes of a YAML file with `grid` (key: values), `zip` (a list of such), and `cases` (name: key: value). Its
    `config` is not read here: it holds for all points, and is a layer below them.

    Raises:
        ConfigError: it cannot be read, or has another form.
    """
    from fedlens.core.yaml_text import read_file

    tree = read_file(path).tree
    if unknown := tree.keys() - {CONFIG, "grid", "zip", "cases"}:
        raise _form(path, f"{', '.join(sorted(unknown))}: unknown; known here: {CONFIG}, grid, zip, cases")
    axes: list[Axis] = [
        [Choice({key: value}) for value in values] for key, values in _lists(path, "grid", tree.get("grid", {}))
    ]
    for number, group in enumerate(tree.get("zip", [])):
        lists = dict(_lists(path, f"zip[{number}]", group))
        if len(set(map(len, lists.values()))) != 1:
            raise _form(path, f"zip[{number}]: needs lists of the same length")
        axes.append([Choice(dict(zip(lists, values, strict=True))) for values in zip(*lists.values(), strict=True)])
    named = tree.get("cases", {})
    if not isinstance(named, Mapping) or not all(isinstance(values, Mapping) for values in named.values()):
        raise _form(path, "cases: needs names, and under each the keys that differ")
    if named:
        axes.append([Choice(dict(values), name=str(name)) for name, values in named.items()])
    return axes


def _lists(path: Path, where: str, tree: object) -> Iterator[tuple[str, list[Any]]]:
    if not isinstance(tree, Mapping):
        raise _form(path, f"{where}: needs keys with lists of values")
    for key, values in tree.items():
        if not isinstance(values, list) or not values:
            raise _form(path, f"{where}: {key}: needs a list of values")
        yield str(key), values


def _form(path: Path, reason: str) -> ConfigError:
    return ConfigError(f"{path}: {reason}", code="syntax", key=str(path))


def _split(override: str) -> tuple[str, list[Any]]:
    """The key, and its values. Commas inside brackets or quotes do not separate values."""
    import yaml

    from fedlens.config.blocks import text_or_null
    from fedlens.core.yaml_text import parse_value

    key, _, text = override.partition("=")
    if found := RANGE.fullmatch(text):
        return key, [*range(int(found[1]), int(found[2]))]
    try:
        as_it_stands = text_or_null(key) is not None
        return key, yaml.load(f"[{text}]", yaml.BaseLoader) if as_it_stands else parse_value(f"[{text}]")
    except yaml.YAMLError:
        return key, []


def check_once(axes: Sequence[Axis], fixed: Sequence[str] = ()) -> None:
    """Raises ConfigError: a key is in two axes, or in one and among the overrides for all; or a choice comes twice."""
    axes_of = Counter(key for axis in axes for key in {key for choice in axis for key in choice.keys})
    listed = {key for axis in axes for choice in axis for key in choice.values}
    axes_of.update({override.partition("=")[0] for override in fixed} & listed)  # a case wins over what is for all
    twice = [key for key, count in axes_of.items() if count > 1]
    short = {key: key for axis in axes for choice in axis for key in choice.values}
    twice += [name for axis in axes for name, count in Counter(one.words(short) for one in axis).items() if count > 1]
    if twice:
        raise ConfigError(
            f"{', '.join(twice)}: given twice, in lists, cases or for all; give it once",
            code="contradiction",
            key=twice[0],
        )
