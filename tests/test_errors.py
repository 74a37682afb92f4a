"""Mistakes in a configuration: code, key and line."""

from __future__ import annotations

import pickle

import fedlens
from fedlens.errors import ConfigError, Problem


def test_one_mistake_by_its_parts() -> None:
    error = ConfigError("seed = -1: must be above", code="out_of_range", key="seed")
    assert error.problems == (Problem("out_of_range", "seed", "seed = -1: must be above"),)
    assert str(error) == "seed = -1: must be above"


def test_several_mistakes_are_a_line_each_and_cross_processes() -> None:
    error = ConfigError(Problem("unknown_key", "sed", "sed: unknown key"), Problem("missing", "a", "a: is missing"))
    again = pickle.loads(pickle.dumps(error))
    assert again.problems == error.problems
    assert str(again) == "sed: unknown key\na: is missing"


def test_the_words_of_a_plugin_are_enough() -> None:
    assert ConfigError("no").problems == (Problem("invalid_value", "", "no"),)


def test_the_package_exports_them() -> None:
    assert fedlens.ConfigError is ConfigError
    assert issubclass(fedlens.ConfigError, fedlens.FedLensError)
