"""A strategy that a Python program hands over as an object: `fedlens.run(strategy=MyStrategy(mu=0.1))`.

Its class is registered under a name, and its fields are the configuration's keys, as for every other strategy. So the
run's config.yaml says all but the code, and a resume that is given the same strategy goes on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from fedlens.config.blocks import FROM_PYTHON
from fedlens.config.schema import Config
from fedlens.errors import ConfigError
from fedlens.strategies.base import Strategy, strategies

KEPT = ("fedlens.strategies.", "fedlens_plugin_")
"""Modules whose strategies a command finds again: they keep the name that they are registered under."""


def keys_of(strategy: Strategy) -> dict[str, Any]:
    """The section `strategy` of a configuration for this one; its class is known by that name from now on.

    Raises:
        ConfigError: it is no dataclass, or its fields are not values that a configuration can hold.
    """
    kind = type(strategy)
    if not isinstance(strategy, Strategy) or "__dataclass_params__" not in vars(kind):
        raise _refused(
            f"{kind.__name__} is not a dataclass that derives from fedlens.strategies.base.Strategy; write "
            f"@dataclass(frozen=True) above class {kind.__name__}(Strategy), and give an object of it"
        )
    entry = strategies.get(_registered(kind))
    try:
        keys: dict[str, Any] = entry.adapter.dump_python(strategy, mode="json")
        same = entry.build(keys) == strategy
    except (PydanticSerializationError, ValidationError) as error:
        raise _refused(_not_kept(kind)) from error
    if not same:
        raise _refused(_not_kept(kind))
    return {"name": entry.name, **keys}


def check_alone(arguments: Iterable[str]) -> None:
    """Raises ConfigError where one of `arguments`, keys or overrides beside `strategy=`, is of the section too."""
    for argument in arguments:
        if re.match(r"strategy(\.|=|$)", argument):
            text = f"strategy= gives the strategy itself; leave {argument} out"
            raise ConfigError(text, code="idle_key", key=argument.partition("=")[0])


def check_same(config: Config, strategy: Strategy) -> None:
    """Raises ConfigError where the strategy, or one of its fields, is not that of the run whose `config` this is."""
    given, kept = keys_of(strategy), config.strategy.model_dump(mode="json")
    for key, value in kept.items():
        if given.get(key) != value:
            differs = f"the run has strategy.{key} = {value!r}, and not {given.get(key)!r}"
            raise _refused(f"{differs}; give the same strategy")


def _registered(kind: type[Strategy]) -> str:
    """The name of this class, which is registered where it was not."""
    if kind.__module__.startswith(KEPT):
        for entry in strategies.entries():
            if entry.factory is kind:
                return entry.name
    name = f"{FROM_PYTHON}{kind.__name__}"
    strategies.register(name, summary="given from Python")(kind)
    return name


def _not_kept(kind: type) -> str:
    return (
        f"the fields of {kind.__name__} are its configuration keys, so each has to be a number, a text or a "
        "truth value; make other things in its methods"
    )


def _refused(text: str) -> ConfigError:
    return ConfigError(f"strategy=: {text}", code="invalid_value", key="strategy=")
