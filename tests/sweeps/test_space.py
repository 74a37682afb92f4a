"""What a search may try, and which of it a method has."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from tests.problems import refuses

from fedlens.sweeps.methods import Method, methods
from fedlens.sweeps.points import cases, listed
from fedlens.sweeps.space import described, holds, rounded, searched

FIXED = ["model.name=lenet", "federated.num_rounds=2"]


def test_ranges_and_lists() -> None:
    written = ["optimizer.lr=log:0.001:1", "optimizer.momentum=float:0:0.9", "federated.local_epochs=int:1:5"]
    lists = ["federated.batch_size=logint:8:128", "optimizer.nesterov=true,false", "strategy.name=fedavg,fedprox"]
    space, fixed = searched([*written, *lists, "data.validation=0.2"])
    assert space == {
        "optimizer.lr": FloatDistribution(0.001, 1, log=True),
        "optimizer.momentum": FloatDistribution(0, 0.9),
        "federated.local_epochs": IntDistribution(1, 5),
        "federated.batch_size": IntDistribution(8, 128, log=True),
        "optimizer.nesterov": CategoricalDistribution([True, False]),
        "strategy.name": CategoricalDistribution(["fedavg", "fedprox"]),
    }
    assert fixed == ["data.validation=0.2"]
    shown = [f"{key}={described(one)}" for key, one in space.items()]
    assert shown == [*written, lists[0], "optimizer.nesterov=True,False", lists[2]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("optimizer.lr=log:1:0.1", "the first number has to be the smaller one"),
        ("optimizer.lr=log:0:1", "a logarithmic range begins above 0"),
        ("optimizer.lr=log:a:1", "needs two numbers"),
        ("optimizer.lr=log:nan:1", "the first number has to be the smaller one"),
        ("federated.local_epochs=int:1:2.5", "needs two whole numbers"),
        ("data.normalize=[1],[2]", "numbers, words, true or false"),
    ],
)
def test_what_cannot_be_searched(text: str, reason: str) -> None:
    with refuses(("syntax", text.partition("=")[0])) as caught:
        searched([text])
    assert reason in str(caught.value)
    assert "log:0.001:1" in str(caught.value)


def test_the_luckiest_seed_is_not_searched() -> None:
    for key in ("seed", "data.partition.seed"):
        with refuses(("contradiction", key)):
            searched([f"{key}=0:5"])


def test_what_trials_are_measured_by_is_not_searched() -> None:
    with refuses(("contradiction", "data.validation")):
        searched(["data.validation=float:0.1:0.3"])


def test_numbers_that_are_tried_can_be_read() -> None:
    assert [rounded(value) for value in (0.0123456, 3, "sgd", True)] == [0.01235, 3, "sgd", True]


def test_what_the_search_could_have_tried() -> None:
    assert [holds(FloatDistribution(0, 1), value) for value in (0.5, 2.0, ..., None)] == [True, False, False, False]
    assert [holds(CategoricalDistribution(["a"]), value) for value in ("a", "b")] == [True, False]


def of(texts: list[str], *, lists: tuple[str, ...] = (), named: tuple[str, ...] = ()) -> list[Method]:
    axes, _ = listed(lists)
    return methods(None, FIXED, [*([cases(named)] if named else []), *axes], searched(texts)[0], "tune")


def test_a_method_is_searched_over_the_keys_that_it_has() -> None:
    fedavg, fedprox = of(
        ["optimizer.lr=log:0.01:1", "strategy.mu=log:0.001:1"], lists=("strategy.name=fedavg,fedprox",)
    )
    assert [fedavg.name, list(fedavg.space), fedavg.lacks] == ["strategy=fedavg", ["optimizer.lr"], ["strategy.mu"]]
    assert [fedprox.name, list(fedprox.space), fedprox.lacks] == [
        "strategy=fedprox", ["optimizer.lr", "strategy.mu"], [],
    ]  # fmt: skip
    values = fedprox.values({"optimizer.lr": 0.123456, "strategy.mu": 0.5})
    config = fedprox.make(values)
    assert (config.optimizer.lr, config.strategy.parameters["mu"]) == (0.1235, 0.5)
    assert config.tracking.dir == Path("logs/tune")
    assert fedprox.told(values) == "lr=0.1235 mu=0.5"


def test_methods_that_take_several_keys() -> None:
    found = of(["optimizer.lr=log:0.01:1"], named=("mine: strategy.name=fedprox strategy.mu=0.1", "plain: seed=1"))
    assert [method.name for method in found] == ["mine", "plain"]
    assert [method.make({}).strategy.name for method in found] == ["fedprox", "fedavg"]


@pytest.mark.parametrize(
    ("texts", "code", "key"),
    [
        (["optimizer.lr=log:0.01:1", "strategy.mu=log:0.001:1"], "unknown_key", "strategy.mu"),
        (["optimizer.rate=log:0.01:1"], "unknown_key", "optimizer.rate"),
        (["federated.fraction_fit=float:0.1:3"], "out_of_range", "federated.fraction_fit"),
        (["optimizer.lr=0.1,much"], "wrong_type", "optimizer.lr"),
        ([], "missing", ""),
    ],
)
def test_every_value_is_checked_before_anything_runs(texts: list[str], code: str, key: str) -> None:
    with refuses((code, key)):
        of(texts)


def test_a_key_is_searched_or_given() -> None:
    with refuses(("contradiction", "optimizer.lr")):
        of(["optimizer.lr=log:0.01:1"], named=("fast: optimizer.lr=0.5", "plain: seed=1"))
    with refuses(("contradiction", "optimizer.lr")):
        methods(None, ["optimizer.lr=0.5"], [], searched(["optimizer.lr=log:0.01:1"])[0], "tune")


def test_a_method_is_what_it_is_called() -> None:
    """A key that is given for all would win over that of the method."""
    axes = listed(["strategy.name=fedavg,fedprox"])[0]
    with refuses(("contradiction", "strategy.name")):
        methods(None, ["strategy.name=fedavg"], axes, searched(["optimizer.lr=log:0.01:1"])[0], "tune")
    with refuses(("contradiction", "strategy.name")):
        of(
            ["optimizer.lr=log:0.01:1"],
            named=("x: strategy.name=fedavgm", "y: seed=1"),
            lists=("strategy.name=fedavg,fedprox",),
        )


def test_two_methods_never_write_one_file() -> None:
    with refuses(("duplicate", "--case")):
        of(["optimizer.lr=log:0.01:1"], named=("a b: seed=1", "a-b: seed=2"))
