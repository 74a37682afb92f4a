"""Which runs a sweep has: lists, lists that go together, cases, and a file of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.problems import refuses

from fedlens.config.overrides import section_layer
from fedlens.errors import Code, ConfigError
from fedlens.sweeps.points import CONFIG, cases, from_file, listed, many, points, zipped

SMALL = ["model.name=lenet"]


@contextmanager
def told(code: Code, key: str, text: str) -> Iterator[None]:
    with refuses((code, key)) as caught:
        yield
    assert text in str(caught.value)


def labels(axes: list, fixed: list[str] = SMALL) -> list[str]:
    return [point.label for point in points(None, fixed, axes, "sweep")]


def test_lists_and_ranges_make_every_combination_in_order() -> None:
    axes, fixed = listed(["seed=0:3", "strategy.name=fedavg,fedprox", "model.name=lenet", "federated.num_rounds=2"])
    assert fixed == ["model.name=lenet", "federated.num_rounds=2"]
    assert many(axes) == 6
    found = points(None, fixed, axes, "mine")
    assert [point.label for point in found] == [
        f"seed={seed} strategy={strategy}" for seed in (0, 1, 2) for strategy in ("fedavg", "fedprox")
    ]
    assert [point.config.seed for point in found] == [0, 0, 1, 1, 2, 2]
    assert {point.config.tracking.dir for point in found} == {Path("logs/mine")}
    assert {point.config.federated.num_rounds for point in found} == {2}


def test_commas_in_brackets_and_quotes_do_not_separate() -> None:
    axes, fixed = listed(["data.augment=[flip, crop]", "tracking.name='a,b'", "optimizer.lr=0.1,0.01"])
    assert fixed == ["data.augment=[flip, crop]", "tracking.name='a,b'"]
    assert [choice.values for choice in axes[0]] == [{"optimizer.lr": 0.1}, {"optimizer.lr": 0.01}]


def test_lists_that_go_together_are_one_axis() -> None:
    axis = zipped("model.name=lenet,cnn optimizer.lr=0.1,0.01")
    together = ("model=lenet lr=0.1", "model=cnn lr=0.01")
    assert labels([axis, *listed(["seed=0,1"])[0]], []) == [f"{one} seed={seed}" for one in together for seed in (0, 1)]


def test_cases_may_differ_in_any_keys_and_win_over_what_is_said_for_all() -> None:
    named = cases(["fedavg: strategy.name=fedavg", "fedper : personalization.name=fedper optimizer.lr=0.5"])
    one, other = points(None, [*SMALL, "optimizer.lr=0.1"], [named], "sweep")
    assert (one.label, other.label) == ("fedavg", "fedper")
    assert (one.config.personalization.name, other.config.personalization.name) == ("none", "fedper")
    assert (one.config.optimizer.lr, other.config.optimizer.lr) == (0.1, 0.5)


def test_a_file_may_hold_all_of_them(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "grid: {seed: [0, 1]}\n"
        "zip: [{optimizer.lr: [0.1, 0.01], federated.local_epochs: [1, 2]}]\n"
        "cases: {plain: {}, prox: {strategy.name: fedprox, strategy.mu: 0.1}}\n"
    )
    axes = from_file(file)
    assert many(axes) == 8
    found = points(None, SMALL, axes, "sweep")
    assert found[-1].label == "seed=1 lr=0.01 local_epochs=2 prox"
    assert (found[-1].config.strategy.name, found[-1].config.federated.local_epochs) == ("fedprox", 2)


def test_what_a_file_says_for_all_is_below_its_cases(tmp_path: Path) -> None:
    """A case that names another strategy does not have the parameters of that for all."""
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "config:\n  model: {name: lenet}\n  strategy: {name: fedprox, mu: 0.5}\n  optimizer.lr: 0.3\n"
        "cases: {prox: {}, plain: {strategy.name: fedavg, optimizer.lr: 0.1}}\n"
    )
    prox, plain = points(section_layer(file, CONFIG), [], from_file(file), "sweep")
    assert (prox.config.strategy.mu, prox.config.optimizer.lr, prox.config.model.name) == (0.5, 0.3, "lenet")
    assert (plain.config.strategy.name, plain.config.optimizer.lr, plain.config.model.name) == ("fedavg", 0.1, "lenet")


def test_a_mistake_in_what_a_file_says_for_all_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text("config:\n  optimizer:\n    lr: -1\ngrid: {seed: [0, 1]}\n")
    with pytest.raises(ConfigError, match=rf"optimizer.lr = -1.*{file}, line 3"):
        points(section_layer(file, CONFIG), [], from_file(file), "sweep")
    file.write_text("config: [1]\n")
    with told("syntax", str(file), "config: needs keys with values"):
        section_layer(file, CONFIG)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("grids: {}\n", "grids: unknown; known here: config, grid, zip, cases"),
        ("grid: {seed: 3}\n", "grid: seed: needs a list of values"),
        ("grid: [1]\n", "grid: needs keys with lists"),
        ("zip: [{seed: [1, 2], optimizer.lr: [0.1]}]\n", "zip[0]: needs lists of the same length"),
        ("cases: {a: 3}\n", "cases: needs names"),
    ],
)
def test_a_file_of_another_form_is_one_line(tmp_path: Path, content: str, line: str) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(content)
    with told("syntax", str(file), line):
        from_file(file)


def test_bad_lists_and_cases_are_one_line() -> None:
    with told("contradiction", "--zip", "seed has 2, optimizer.lr has 3"):
        zipped("seed=0,1 optimizer.lr=1,2,3")
    with told("contradiction", "--zip", "needs two or more lists"):
        zipped("seed=0,1")
    with told("syntax", "--case", "this name comes twice"):
        cases(["a: seed=1", "a: seed=2"])
    with told("syntax", "--case", "NAME: key=value"):
        cases(["seed=1"])
    with told("contradiction", "seed", "given twice, in lists"):
        points(None, SMALL, [*listed(["seed=0,1"])[0], cases(["a: seed=1", "b: seed=2"])], "sweep")


def test_all_mistakes_are_told_before_anything_runs() -> None:
    axes, _ = listed(["optimizer.lr=0.1,xx,-1"])
    with pytest.raises(Exception, match=r"optimizer.lr = 'xx'.*\n.*optimizer.lr = -1"):
        points(None, SMALL, axes, "sweep")
    with told("missing", "", "nothing to sweep over"):
        points(None, SMALL, [], "sweep")
    with told("unknown_key", "optimizer.lrr", "unknown key"):
        points(None, SMALL, listed(["optimizer.lrr=1,2"])[0], "sweep")


def test_a_key_for_all_is_not_swept_and_no_value_comes_twice() -> None:
    with told("contradiction", "strategy.name", "given twice"):
        labels(listed(["strategy.name=fedavg,fedprox"])[0], [*SMALL, "strategy.name=fedavg"])
    with told("contradiction", "optimizer.lr=0.1", "given twice"):
        labels(listed(["optimizer.lr=0.1,0.1"])[0])
