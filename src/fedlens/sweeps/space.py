"""What a search may try: for each key a range, or a list of values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from fedlens.errors import ConfigError
from fedlens.sweeps.points import listed

RANGE = re.compile(r"(log|float|int|logint):([^:]+):([^:]+)")
FORMS = "log:0.001:1, float:0:0.9, int:1:5, logint:8:128, or a list of values"

DIGITS = 4
"""Significant digits of a number that is tried: more make no difference, and are hard to read."""

Space = Mapping[str, BaseDistribution]


def searched(overrides: Iterable[str]) -> tuple[dict[str, BaseDistribution], list[str]]:
    """The search space, and the overrides that hold for all trials.

    Raises:
        ConfigError: a range or a list that cannot be searched.
    """
    space: dict[str, BaseDistribution] = {}
    rest: list[str] = []
    for override in overrides:
        key, _, text = override.partition("=")
        if found := RANGE.fullmatch(text):
            space[key] = _range(override, *found.groups())
        else:
            rest.append(override)
    lists, fixed = listed(rest)
    for axis in lists:
        ((key, _),) = axis[0].values.items()
        space[key] = _categories(key, [choice.values[key] for choice in axis])
    for key in space:
        _check_key(key)
    return space, fixed


def _check_key(key: str) -> None:
    """Raises ConfigError: searching over it would find chance, or change what trials are measured by."""
    if key in ("data.validation", "data.client_test", "data.test", "data.path", "data.source"):
        raise ConfigError(
            f"{key}: not a key to search over: it changes the images that trials are compared on",
            code="contradiction",
            key=key,
        )
    if key == "seed" or key.startswith("data.partition."):
        raise ConfigError(
            f"{key}: not a key to search over: the seed or division with the best accuracy is the luckiest one. Search "
            "with one, then repeat what was found with others: fedlens sweep FOUND.yaml seed=1:4",
            code="contradiction",
            key=key,
        )


def _range(override: str, kind: str, first: str, last: str) -> BaseDistribution:
    number = int if kind.endswith("int") else float
    try:
        low, high = number(first), number(last)
    except ValueError as error:
        raise _refused(override, f"needs two {'whole ' if number is int else ''}numbers") from error
    log = kind.startswith("log")
    if not low < high:
        raise _refused(override, "the first number has to be the smaller one")
    if log and low <= 0:
        raise _refused(override, "a logarithmic range begins above 0")
    if number is int:
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(low, high, log=log)


def _categories(key: str, values: list[Any]) -> BaseDistribution:
    if odd := [value for value in values if not isinstance(value, str | int | float | None)]:
        raise _refused(f"{key}={odd[0]}", "a list to search over has numbers, words, true or false in it")
    return CategoricalDistribution(values)


def _refused(override: str, reason: str) -> ConfigError:
    key = override.partition("=")[0]
    return ConfigError(f"{override}: {reason}. A search is written as {FORMS}", code="syntax", key=key)


def rounded(value: Any) -> Any:
    """A value as a trial uses it."""
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def samples(distribution: BaseDistribution) -> list[Any]:
    """Values that have to be valid if all are: both ends of a range, or every value of a list."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return [distribution.low, distribution.high]


def holds(distribution: BaseDistribution, value: Any) -> bool:
    """Whether the search could have tried it."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return isinstance(value, int | float) and distribution.low <= value <= distribution.high


def described(distribution: BaseDistribution) -> str:
    """As a user writes it."""
    if isinstance(distribution, CategoricalDistribution):
        return ",".join(map(str, distribution.choices))
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    whole = isinstance(distribution, IntDistribution)
    kind = f"{'log' * distribution.log}{'int' * whole}" or "float"
    return f"{kind}:{distribution.low:g}:{distribution.high:g}"
