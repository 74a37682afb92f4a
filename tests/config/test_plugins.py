"""A user's own blocks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.problems import refuses, refuses_with

from fedlens.build.load import load
from fedlens.config.plugins import load_plugins
from fedlens.strategies.base import strategies

PLUGIN = """\
from dataclasses import dataclass
from fedlens.strategies.base import Strategy, strategies

@strategies.register("{name}", summary="a test's own")
@dataclass(frozen=True)
class Mine(Strategy):
    strength: float = {default}
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Writes a plugin; what it registers is forgotten afterwards."""
    strategies.names()
    monkeypatch.setattr(strategies, "_entries", dict(strategies._entries))
    before = set(sys.modules)

    def write(text: str, stem: str = "mine") -> Path:
        path = tmp_path / f"{stem}.py"
        path.write_text(text)
        return path

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("fedlens_plugin_"):
            del sys.modules[name]


def test_a_plugin_s_strategy_is_found_before_validation(plugin):
    path = plugin(PLUGIN.format(name="mine", default=0.5))
    config = load(None, [f"plugins=[{path}]", "strategy.name=mine", "strategy.strength=2"])
    assert config.strategy.parameters == {"strength": 2.0}
    assert strategies.get("mine").factory.__module__ == "fedlens_plugin_mine"


def test_an_unchanged_plugin_is_not_run_again_but_a_changed_one_is(plugin):
    path = plugin(PLUGIN.format(name="mine", default=0.5))
    load_plugins([path])
    first = strategies.get("mine").factory
    load_plugins([path])
    assert strategies.get("mine").factory is first
    load_plugins([plugin(PLUGIN.format(name="mine", default=0.75))])
    assert strategies.get("mine").build({}).strength == 0.75


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\ny = 1 / 0\n", "line 2: ZeroDivisionError: division by zero"),
        ("x = (\n", "line 1: SyntaxError: '(' was never closed"),
        ("import no_such_module_at_all\n", "line 1: ModuleNotFoundError"),
        (PLUGIN.format(name="fedavg", default=1), "line 4: ConfigError: strategy 'fedavg' is registered twice"),
    ],
)
def test_a_broken_plugin_names_file_and_line(plugin, text, expected):
    path = plugin(text)
    with refuses_with("plugin_failed", f"plugins: {path}, {expected}"):
        load(None, [f"plugins=[{path}]", "strategy.name=unknown_then"])
    assert "fedlens_plugin_mine" not in sys.modules


def test_a_plugin_with_the_name_and_class_of_a_built_in_strategy_is_refused(plugin):
    copied = PLUGIN.format(name="scaffold", default=1).replace("class Mine", "class Scaffold")
    load_before = strategies.get("scaffold").factory
    with refuses(("plugin_failed", "plugins")) as caught:
        load_plugins([plugin(copied)])
    both = "by fedlens.strategies.scaffold.Scaffold and fedlens_plugin_mine.Scaffold: give yours another name"
    assert both in str(caught.value)
    assert strategies.get("scaffold").factory is load_before


def test_a_plugin_that_comes_before_the_built_in_ones_is_refused_too(plugin, monkeypatch):
    monkeypatch.setattr(strategies, "_entries", {})
    monkeypatch.setattr(strategies, "_discovered", False)
    for name in [name for name in sys.modules if name.startswith("fedlens.strategies.") and not name.endswith(".base")]:
        monkeypatch.delitem(sys.modules, name)
    with refuses(("plugin_failed", "plugins")):
        load_plugins([plugin(PLUGIN.format(name="fedavg", default=1).replace("class Mine", "class FedAvg"))])


def test_missing_and_clashing_files(plugin, tmp_path):
    with refuses_with("not_found", f"plugins: {tmp_path / 'nowhere.py'} is no file"):
        load_plugins([tmp_path / "nowhere.py"])
    path = plugin("x = 1\n")
    other = tmp_path / "other" / path.name
    other.parent.mkdir()
    other.write_text("y = 1\n")
    with refuses_with("duplicate", f"plugins: {path} and {other} have the same name; rename one"):
        load_plugins([path, other])
