"""Keys that have no effect with the data at hand, which is known only when the data has been read."""

from __future__ import annotations

from collections.abc import Mapping

from fedlens.config import problems
from fedlens.config.blocks import AUTO
from fedlens.config.idle import value_at
from fedlens.config.schema import Config
from fedlens.data.types import ImageTable
from fedlens.errors import ConfigError


def check_keys_of_table(config: Config, table: ImageTable, *, simulated: bool) -> None:
    """Look for keys without effect beside what a source brought. Of a server's own images only the test set counts.

    Raises:
        ConfigError: one line for each.
    """
    clients = table.clients is not None and bool((table.clients != "").any())
    splits = set() if table.split is None else set(table.split.tolist())
    check_keys(config, clients=simulated and clients, test="test" in splits, validation=simulated and "val" in splits)


def check_keys(config: Config, *, clients: bool, test: bool, validation: bool = False) -> None:
    """As `check_keys_of_table`; the arguments say what the data brings.

    Raises:
        ConfigError: one line for each.
    """
    idle: dict[str, str] = {}
    if clients and config.data.partition.scheme == AUTO:
        text = "the data has clients of its own, and scheme auto keeps them; choose data.partition.scheme=dirichlet"
        idle |= {"data.partition.clients": text, "data.partition.seed": text}
    if test:
        idle["data.test"] = "the data brings test images of its own; leave it out"
    if validation:
        idle["data.validation"] = "the data brings validation images of its own; leave it out"
    _refuse(config, idle)


def check_stopping(config: Config, validation_images: int) -> None:
    """Refuse stopping by validation where there are no validation images.

    Raises:
        ConfigError: one line for each key.
    """
    if not validation_images:
        text = "no client has validation images; set data.validation, or leave it out"
        _refuse(config, {f"stopping.{name}": text for name in ("target_accuracy", "patience", "min_delta")})


def _refuse(config: Config, idle: Mapping[str, str]) -> None:
    plain = Config()
    given = {key: value_at(config, key) for key in idle}
    unused = [key for key, value in given.items() if value != value_at(plain, key)]
    if unused:
        raise ConfigError(*(problems.problem("idle_key", key, idle[key], given[key]) for key in unused))
