"""Parts of an algorithm whose mathematics do not go together."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from fedlens.build.load import load
from fedlens.errors import ConfigError
from fedlens.strategies.base import Strategy, strategies


@pytest.fixture
def counting(monkeypatch):
    """A strategy that reckons with local steps."""
    strategies.names()
    monkeypatch.setattr(strategies, "_entries", dict(strategies._entries))

    @strategies.register("counting", summary="for this test")
    @dataclass(frozen=True)
    class Counting(Strategy):
        needs_sgd = True


@pytest.fixture
def weighing(monkeypatch):
    """A strategy that gives each part of the model its own weight."""
    strategies.names()
    monkeypatch.setattr(strategies, "_entries", dict(strategies._entries))

    @strategies.register("weighing", summary="for this test")
    @dataclass(frozen=True)
    class Weighing(Strategy):
        weighs_parts = True


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("aggregation.name=median", "aggregation.name = 'median': strategy weighing counts on the weighted mean"),
        ("aggregation.weights=uniform", "aggregation.weights = 'uniform': strategy weighing weighs updates"),
        ("server.max_weight_share=0.2", "server.max_weight_share = 0.2: strategy weighing gives each part"),
    ],
)
def test_weights_of_parts_need_the_plain_mean(weighing, setting: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, ["strategy.name=weighing", setting])
    assert caught.value.problems[0].startswith(line)


@pytest.mark.parametrize("name", ["pfedme", "fedala"])
def test_updates_that_are_more_than_steps(counting, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, [f"personalization.name={name}", "strategy.name=counting"])
    line = str(caught.value)
    assert line.startswith(f"personalization.name = '{name}': its updates are more than local steps")
    assert "strategy counting counts on those alone; use strategy.name=fedavg" in line


@pytest.mark.parametrize(
    "name", ["none", "fedper", "fedrep", "fedbn", "lgfedavg", "fedbabu", "ditto", "apfl", "finetune"]
)
def test_updates_that_are_steps(counting, name: str) -> None:
    config = load(None, [f"personalization.name={name}", "strategy.name=counting"])
    assert (config.personalization.name, config.strategy.name) == (name, "counting")


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("strategy.name=fedprox", "strategy.name = 'fedprox': personalization.name=local shares nothing, so it has no"),
        ("strategy.server_lr=0.5", "strategy.server_lr = 0.5: .* no effect; leave it out"),
        ("aggregation.name=median", "aggregation.name = 'median': .* no effect; use aggregation.name=mean"),
        ("attack.name=sign_flip", "attack.name = 'sign_flip': .* no effect; use attack.name=none"),
    ],
)
def test_where_nothing_is_shared_nothing_else_has_an_effect(given: str, line: str) -> None:
    load(None, ["personalization.name=local"])
    with pytest.raises(ConfigError, match=line):
        load(None, ["personalization.name=local", given, *(["attack.fraction=0.2"] if "attack" in given else [])])
