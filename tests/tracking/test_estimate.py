"""How long a run still takes."""

from __future__ import annotations

import pytest

from fedlens.core.types import BatchProgress
from fedlens.tracking.estimate import Estimate, brief, left_of, spent_and_left


def at(steps: int, round_number: int = 1) -> BatchProgress:
    return BatchProgress(round_number, "", 0, 4, steps, 100)


def test_nobody_knows_before_ten_steps():
    estimate = Estimate(1, 0, 0.0)
    assert estimate.left(5.0) is None
    estimate.standing(at(1), 10.0)
    estimate.standing(at(10), 19.0)
    assert estimate.left(19.0) is None
    estimate.standing(at(11), 20.0)
    assert estimate.left(20.0) == 89  # 10 steps in 10 s; the start is not counted


def test_rounds_to_come_take_as_long_as_those_before():
    estimate = Estimate(5, 2, 0.0)  # goes on after round 2
    estimate.round(3, 30.0)
    assert estimate.left(30.0) == 60
    estimate.standing(at(0, 4), 31.0)
    assert estimate.left(40.0) == 30 + 20  # 10 s of round 4 are over
    estimate.standing(at(10, 4), 41.0)
    estimate.standing(at(20, 4), 43.0)
    assert estimate.left(43.0) == 30 + 80 * 0.2
    estimate.round(5, 90.0)
    assert estimate.left(90.0) == 0


@pytest.mark.parametrize(("seconds", "text"), [(42.3, "42 s"), (59.6, "1 min"), (192, "3 min"), (7500, "2 h 5 min")])
def test_brief(seconds, text):
    assert brief(seconds) == text


def test_even_work():
    assert left_of(0, 10, 3.0) is None
    assert left_of(2, 10, 3.0) == 12
    assert spent_and_left(3.0, None) == "3 s"
    assert spent_and_left(102.0, None) == "1 min 42 s"
    assert spent_and_left(3.0, 12.0) == "3 s, about 12 s left"
