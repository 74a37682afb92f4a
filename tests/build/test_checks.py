"""Parts of an algorithm whose mathematics do not go together. A block is asked what it is, not for its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from tests.problems import refuses, refuses_with

from fedlens.build.load import load
from fedlens.personalization.base import personalizations
from fedlens.strategies.base import Strategy, strategies

Declare = Callable[..., None]


@pytest.fixture
def declare(monkeypatch: pytest.MonkeyPatch) -> Declare:
    """Registers the strategy `own`, which declares the given traits."""
    strategies.names()
    monkeypatch.setattr(strategies, "_entries", dict(strategies._entries))

    def register(*traits: str) -> None:
        @strategies.register("own", summary="for this test")
        @dataclass(frozen=True)
        class Own(Strategy):
            pass

        for trait in traits:
            assert getattr(Own, trait) is False
            setattr(Own, trait, True)

    return register


MISMATCHES = [
    ("needs_sgd", "optimizer.name=adamw", "optimizer.name = 'adamw': strategy own counts on local steps of SGD"),
    ("needs_sgd", "optimizer.keep=true", "optimizer.keep = true: strategy own counts on momentum that starts at zero"),
    ("needs_sgd", "transfer.layer_decay=0.5", "transfer.layer_decay = 0.5: strategy own counts on one learning rate"),
    ("needs_mean", "aggregation.name=median", "aggregation.name = 'median': strategy own counts on the weighted mean"),
    ("weighs_parts", "aggregation.name=median", "aggregation.name = 'median': strategy own counts on the weighted"),
    ("weighs_parts", "server.max_weight_share=0.2", "server.max_weight_share = 0.2: strategy own gives each part"),
    ("weighs_parts", "aggregation.weights=uniform", "aggregation.weights = 'uniform': strategy own weighs updates"),
    ("needs_own_weights", "aggregation.weights=uniform", "aggregation.weights = 'uniform': strategy own weighs upd"),
    ("needs_cohort", "schedule.name=fedasync", "strategy.name = 'own': needs a whole cohort that starts from one mod"),
    ("needs_cohort", "schedule.name=fedbuff", "strategy.name = 'own': needs a whole cohort that starts from one mod"),
]


@pytest.mark.parametrize(("trait", "setting", "line"), MISMATCHES)
def test_what_a_strategy_needs(declare: Declare, trait: str, setting: str, line: str) -> None:
    declare()
    load(None, ["strategy.name=own", setting])  # one that needs nothing
    declare(trait)
    with refuses_with("contradiction", line):
        load(None, ["strategy.name=own", setting])


@pytest.mark.parametrize("entry", personalizations.entries(), ids=lambda entry: entry.name)
def test_updates_that_are_more_than_local_steps(declare: Declare, entry) -> None:
    declare("needs_sgd")
    overrides = [f"personalization.name={entry.name}", "strategy.name=own"]
    if not entry.factory.shares:
        return
    if entry.factory.steps_only:
        assert load(None, overrides).strategy.name == "own"
        return
    with refuses(("contradiction", "personalization.name")) as caught:
        load(None, overrides)
    assert "its updates are more than local steps, and strategy own counts on those alone" in str(caught.value)


def test_what_the_blocks_declare() -> None:
    """What the papers' derivations assume; others may declare it, too."""
    by_name = {entry.name: entry.factory for entry in strategies.entries()}
    for trait, names in {
        "needs_sgd": ("fednova", "qfedavg", "scaffold"),
        "needs_mean": ("feddyn", "fedexp", "fednova", "qfedavg", "scaffold"),
        "needs_own_weights": ("feddyn", "fedexp", "fednova", "qfedavg", "scaffold"),
    }.items():
        assert all(getattr(by_name[name], trait) for name in names), trait
    steps = {entry.name for entry in personalizations.entries() if entry.factory.steps_only}
    assert not steps & {"pfedme", "fedala"}
    assert not by_name["fedavg"].needs_mean


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ("schedule.name=fedbuff aggregation.name=median", "aggregation.name = 'median': takes a whole round's updates"),
        (
            "schedule.name=fedasync attack.name=gaussian",
            "attack.name = 'gaussian': makes a round's updates up together",
        ),
        (
            "schedule.name=fedasync tracking.leave_one_out=2",
            "tracking.leave_one_out = 2: takes a round again without each client, and schedule fedasync has no rounds",
        ),
        (
            "schedule.name=fedasync federated.over_selection=0.2",
            "federated.over_selection = 0.2: belongs to synchronous rounds; leave it out with schedule fedasync",
        ),
        ("schedule.name=fedbuff federated.quorum=2", "federated.quorum = 2: belongs to synchronous rounds; every step"),
        (
            "schedule.name=fedbuff schedule.concurrency=5 schedule.buffer_size=6",
            "schedule.buffer_size = 6: only schedule.concurrency = 5 clients work at a time; use at most so many",
        ),
        ("compression.name=topk aggregation.name=krum", "aggregation.name = 'krum': compares whole updates, and compr"),
        (
            "compression.name=topk strategy.name=scaffold optimizer.momentum=0",
            "strategy.name = 'scaffold': counts on whole updates, and compression topk sends a part of each update",
        ),
    ],
)
def test_parts_that_exclude_each_other(overrides: str, line: str) -> None:
    with refuses_with("contradiction", line):
        load(None, overrides.split())


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ("strategy.name=fedprox", "strategy.name = 'fedprox': personalization.name=local shares nothing, so it has no"),
        ("strategy.server_lr=0.5", "strategy.server_lr = 0.5: personalization.name=local shares nothing"),
        ("aggregation.name=median", "aggregation.name = 'median': personalization.name=local shares nothing"),
        ("compression.name=topk", "compression.name = 'topk': personalization.name=local shares nothing"),
        ("attack.name=sign_flip", "attack.name = 'sign_flip': personalization.name=local shares nothing"),
    ],
)
def test_where_nothing_is_shared_nothing_else_has_an_effect(overrides: str, line: str) -> None:
    load(None, ["personalization.name=local"])
    with refuses_with("idle_key", line):
        load(None, ["personalization.name=local", *overrides.split()])
