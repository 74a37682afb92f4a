"""What takes less memory, in which order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedlens.build.load import load
from fedlens.measuring.choices import Facts, smaller

FACTS = Facts(workers=4, cohort=4, blocks=0, whole_batches=False, convolutions=True, gpu=False)
PIECE, WORKERS = "memory.micro_batch", "runtime.workers"
BLOCKS, PRECISION = "memory.gradient_checkpointing", "memory.precision"


def steps(*overrides: str, largest: int = 1000, **facts: int) -> list[dict[str, object]]:
    """What each step changes beside those before it."""
    found = smaller(load(None, overrides, use="run"), replace(FACTS, **facts), largest)
    changed, before = [], {}
    for one in found:
        assert load(None, [*overrides, *(f"{key}={value}" for key, value in one.choice.values.items())]) == one.config
        changed.append({key: value for key, value in one.choice.values.items() if before.get(key) != value})
        before = one.choice.values
    return changed


def test_what_changes_the_numbers_least_comes_first() -> None:
    assert steps("federated.batch_size=16", blocks=2) == [
        {PIECE: 16}, {BLOCKS: True}, {PIECE: 8}, {PIECE: 4}, {PIECE: 2}, {PIECE: 1}, {WORKERS: 2}, {WORKERS: 1},
        {PRECISION: "bf16"},
    ]  # fmt: skip


def test_a_piece_of_a_batch_comes_late_for_batch_norm_and_is_never_one_image() -> None:
    assert steps("federated.batch_size=8", whole_batches=True) == [
        {PIECE: 8}, {WORKERS: 2}, {WORKERS: 1}, {PIECE: 4}, {PIECE: 2}, {PRECISION: "bf16"},
    ]  # fmt: skip


def test_how_much_the_numbers_change_is_the_worst_of_all_changes() -> None:
    config = load(None, ["federated.batch_size=8"], use="run")
    found = smaller(config, replace(FACTS, blocks=1, whole_batches=True), 1000)
    assert [one.choice.effect for one in found] == ["same", "same", "rounding", "rounding", "other", "other", "other"]


def test_pieces_that_are_no_smaller_than_the_batches_there_are_only_make_evaluations_smaller() -> None:
    assert steps("federated.batch_size=64", largest=20, workers=1) == [
        {PIECE: 32}, {PIECE: 16}, {PIECE: 8}, {PIECE: 4}, {PIECE: 2}, {PIECE: 1}, {PRECISION: "bf16"},
    ]  # fmt: skip
    assert steps("federated.batch_size=512", workers=1)[0] == {PIECE: 256}
    assert steps("federated.batch_size=512", largest=20, workers=1)[:2] == [{PIECE: 32}, {PIECE: 16}]


def test_a_second_time_it_goes_on_from_where_it_is() -> None:
    given = (f"{PIECE}=4", f"{BLOCKS}=true", f"{WORKERS}=2", f"{PRECISION}=bf16")
    assert steps(*given, blocks=2, workers=2) == [{PIECE: 2}, {PIECE: 1}, {WORKERS: 1}]
    assert steps(f"{PIECE}=1", f"{PRECISION}=bf16", workers=1) == []


@pytest.mark.parametrize(
    ("overrides", "missing"),
    [
        (("model.freeze=backbone", "model.name=resnet18"), BLOCKS),
        (("privacy.mode=example", "privacy.noise_multiplier=1", "privacy.clip=1"), BLOCKS),
        (("runtime.name=in_process",), WORKERS),
        (("runtime.name=ray",), WORKERS),
    ],
)
def test_what_does_not_go_with_the_configuration_is_left_out(overrides: tuple[str, ...], missing: str) -> None:
    found = steps(*overrides, blocks=2)
    assert found and not any(missing in change for change in found)
