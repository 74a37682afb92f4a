"""The time of a whole run, from figures of its beginning that are worked out by hand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from fedlens.build.load import load
from fedlens.data.types import ClientRows, DataReport, FederatedData
from fedlens.measuring.expectation import Work, expect
from fedlens.measuring.measurement import Measurement

WORK = Work(rounds=10, steps=30, longest=20, workers=2, evaluations=10, clients=2)


def measurement(*messages: tuple) -> Measurement:
    found = Measurement()
    for message in messages:
        found.take(*message)
    return found


def round_of(at: float, evaluation: float, clients: bool) -> tuple:
    return "round", at, 1.0, evaluation, clients, 0


def federation(*images: int) -> FederatedData:
    """Clients with so many training images."""
    ends = np.cumsum([0, *images])
    none = np.empty(0, np.int64)
    clients = [
        ClientRows(f"c{number}", np.arange(first, last), none, none)
        for number, (first, last) in enumerate(pairwise(ends))
    ]
    total = int(ends[-1])
    return FederatedData(
        images=torch.zeros(total, 1, 8, 8, dtype=torch.uint8), labels=torch.zeros(total, dtype=torch.int64),
        class_names=("a", "b"), clients=tuple(clients), test=none, cache_key="k", report=DataReport(total),
    )  # fmt: skip


def test_rounds_after_the_first_are_counted_and_each_evaluation_by_itself() -> None:
    # The second round takes 5 s, 2 of them evaluation; the third 3 s, 1 of them evaluation: 2.5 s without.
    found = measurement(round_of(10, 1, False), round_of(15, 2, True), round_of(18, 1, False))
    expected = expect(found, WORK)
    assert expected is not None
    assert (expected.training, expected.evaluation, expected.clients) == (2.5, 1, 1)
    assert expected.step == pytest.approx(2.5 / 30)
    assert expected.whole == 10 * 2.5 + 10 * 1 + 2 * 1
    assert not expected.left_out


def test_steps_are_counted_where_no_round_has_ended() -> None:
    # After the first look: 6 steps in 3 s by both workers, one a second each; the longer share has 20.
    found = measurement(("steps", 0.0, 1, 2, 0), ("steps", 9.0, 1, 4, 0), ("steps", 12.0, 1, 10, 0))
    expected = expect(found, WORK)
    assert expected is not None
    assert expected.training == 20
    assert expected.left_out == ["evaluations", "the clients' own evaluations"]


def test_workers_that_step_at_about_the_same_moments_are_not_taken_for_fast_ones() -> None:
    # Each step takes 10 s. Between the last two looks lies a quarter of a second, and no whole step.
    found = measurement(
        ("steps", 0.0, 1, 1, 0), ("steps", 0.25, 1, 2, 0), ("steps", 10.0, 1, 3, 0), ("steps", 10.25, 1, 4, 0)
    )  # fmt: skip
    expected = expect(found, WORK)
    assert expected is not None
    assert expected.training == 20 * 10
    assert not found.enough(seconds=8, rounds=0, workers=2)
    found.take("steps", 20.0, 1, 5, 0)
    assert found.enough(seconds=8, rounds=0, workers=2)


def test_an_evaluation_that_has_not_ended_is_counted_by_its_images() -> None:
    found = measurement(
        ("steps", 0.0, 1, 2, 0), ("steps", 9.0, 1, 4, 0), ("steps", 12.0, 1, 10, 0),
        ("working", "test images", 20.0, 100, 1000), ("working", "test images", 22.0, 300, 1000),
    )  # fmt: skip
    expected = expect(found, WORK)
    assert expected is not None
    assert expected.evaluation == 10  # 100 images a second


def test_too_little_is_no_expectation() -> None:
    assert expect(measurement(("steps", 0.0, 1, 2, 0)), WORK) is None


def test_the_work_of_a_run_is_counted_by_steps_of_the_busiest_worker() -> None:
    config = load(
        None,
        ["federated.num_rounds=7", "federated.batch_size=10", "federated.local_epochs=2", "federated.evaluate_every=3"],
    )
    # 3, 1 and 2 batches, twice each: 12 steps; two workers have 6 and 6.
    work = Work.of(config, federation(25, 10, 20), workers=2)
    assert (work.steps, work.longest) == (12, 6)
    assert (work.rounds, work.evaluations, work.clients) == (7, 3, 2)


def test_of_two_measurements_the_faster_counts_with_what_either_saw() -> None:
    slow = expect(measurement(round_of(10, 1, False), round_of(15, 2, True), round_of(18, 1, False)), WORK)
    fast = expect(measurement(("steps", 0.0, 1, 2, 0), ("steps", 1.0, 1, 4, 0), ("steps", 1.5, 1, 24, 0)), WORK)
    assert slow is not None and fast is not None
    both = slow.faster(fast)
    assert both.training == fast.training == 1
    assert both.evaluation == slow.evaluation
