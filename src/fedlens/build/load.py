"""Configurations, read and checked in full: by the schema, and by the algorithms that they name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from fedlens.build.checks import mismatches, unknown_architecture
from fedlens.config.load import load_config, load_saved_config
from fedlens.config.schema import Config
from fedlens.errors import Problem


def check(config: Config, where: Callable[[str], str]) -> Iterator[Problem]:
    """The mistakes in a configuration whose blocks are all known."""
    yield from mismatches(config, where)
    yield from unknown_architecture(config, where)


load = partial(load_config, check=check)
"""`config.load.load_config` with every check."""

load_saved = partial(load_saved_config, check=check)
"""`config.load.load_saved_config` with every check."""
