"""Which settings are proposed, with measurements that are made up; and one real measurement of everything."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from fedlens.build.load import load
from fedlens.config.schema import Config
from fedlens.measuring import advice, choices
from fedlens.measuring.advice import Advice, advise
from fedlens.measuring.choices import as_overrides, shown
from fedlens.measuring.measurement import Measurement

GB = 10**9
Figures = Callable[[Config], tuple[float, float]]
"""A configuration → the seconds of a round, and its memory in bytes; no seconds: it failed."""


class Quiet:
    def __init__(self) -> None:
        self.told: list[str] = []

    def measuring(self, what: str, left: float) -> None:
        self.told.append(what)

    def wait(self) -> None: ...


@pytest.fixture
def advised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Advice]:
    """Advice for `model` on a quiet machine of four cores and 10 GB, where `figures` says what is measured."""
    path = tmp_path / "config.yaml"
    path.write_text("federated: {fraction_fit: 0.8}\n")
    monkeypatch.setattr(choices, "cores", lambda: 4)
    monkeypatch.setattr(advice.psutil, "cpu_percent", lambda _seconds: 0.0)
    monkeypatch.setattr(advice.psutil, "virtual_memory", type("Memory", (), {"available": 10 * GB}))

    def measured(figures: Figures, *overrides: str, takes: float = 0.0, seconds: float = 100.0) -> Advice:
        clock = [time.monotonic()]
        monkeypatch.setattr(advice.time, "monotonic", lambda: clock[0])

        def measure(config: Config, **_: Any) -> Measurement:
            clock[0] += takes
            of_round, memory = figures(config)
            found = Measurement(memory=int(memory), failure=None if of_round else "memory is full")
            for number in range(4 * bool(of_round)):
                found.take("round", number * (of_round + 1.0), of_round, 1.0, number % 2 == 1, 0)
            return found

        monkeypatch.setattr(advice, "measure", measure)
        return advise(path, overrides, lambda _label: lambda _done, _all: None, Quiet(), seconds)

    return measured


def values(found: Advice) -> Mapping[str, Any] | None:
    return found.chosen.values if found.chosen else None


def test_the_fastest_division_of_the_cores_is_proposed_with_the_layout_that_suits_it(advised) -> None:
    def figures(config: Config) -> tuple[float, float]:
        faster = config.runtime.threads_per_worker == 2, not config.memory.channels_last
        return 8.0 / (1 + faster[0]) / (1 + faster[1]), GB

    found = advised(figures, "model.name=lenet")
    assert values(found) == {
        "runtime.workers": 2, "runtime.threads_per_worker": 2, "memory.channels_last": False,
    }  # fmt: skip
    assert found.chosen is not None and found.chosen.expected is not None and found.rows[0].expected is not None
    assert (found.rows[0].expected.training, found.chosen.expected.training) == (8, 2)


def test_a_small_difference_is_no_reason_to_change_anything(advised) -> None:
    found = advised(lambda config: (8.0 if config.memory.channels_last else 7.5, GB))
    assert values(found) == {}


def test_what_changes_the_results_is_only_told(advised) -> None:
    found = advised(lambda config: (1.0 if config.memory.precision == "bf16" else 8.0, GB))
    assert values(found) == {}
    assert [row.values for row in found.others] == [{"memory.precision": "bf16"}]


@pytest.mark.parametrize(("model", "proposed"), [("cnn", True), ("resnet18", False), ("dual_encoder", False)])
def test_a_piece_of_a_batch_is_proposed_only_where_rows_count_one_by_one(advised, model: str, proposed: bool) -> None:
    found = advised(lambda config: (1.0 if config.memory.micro_batch else 8.0, GB), f"model.name={model}")
    assert ("memory.micro_batch" in (values(found) or {})) == proposed
    assert bool(found.others) != proposed


def test_where_memory_is_full_what_needs_less_is_proposed_though_it_is_slower(advised) -> None:
    def figures(config: Config) -> tuple[float, float]:
        return (8.0, 5 * GB) if config.memory.gradient_checkpointing else (0.0, 10 * GB)

    found = advised(figures, "model.name=resnet18")
    assert values(found) == {"memory.gradient_checkpointing": True}
    assert found.rows[0].failure == "memory is full"


def test_what_nearly_fills_the_memory_is_left_for_what_does_not(advised) -> None:
    def figures(config: Config) -> tuple[float, float]:
        return (8.0, 5 * GB) if config.memory.gradient_checkpointing else (6.0, 9.5 * GB)

    assert values(advised(figures, "model.name=resnet18")) == {"memory.gradient_checkpointing": True}


def test_nothing_works(advised) -> None:
    found = advised(lambda _: (0.0, GB))
    assert found.chosen is None and found.others == []


def test_a_big_model_gets_fewer_measurements_and_says_which_are_missing(advised) -> None:
    found = advised(lambda _: (60.0, GB), "model.name=resnet18", takes=40)
    assert len(found.rows) == 3
    assert found.skipped
    assert all(map(shown, found.skipped))


def test_what_does_not_go_with_the_configuration_is_told(advised) -> None:
    found = advised(lambda _: (1.0, GB), "runtime.name=in_process", "model.name=lenet")
    assert not any("runtime.workers" in row.values for row in found.rows)
    assert any("runtime.name=in_process" in reason for reason in found.lacking)
    assert any("lenet has no blocks" in reason for reason in found.lacking)


def test_every_choice_is_a_configuration_that_loads(advised) -> None:
    for overrides in (("model.name=resnet18",), ("model.name=resnet18", "model.freeze=backbone", "data.augment=flip")):
        for row in advised(lambda _: (1.0, GB), *overrides).rows:
            load(None, [*overrides, *as_overrides(row.values)], use="run")
