"""Sums are exact for any cohort, whoever drops out when; the expected sums are those of the plain vectors."""

from __future__ import annotations

import numpy as np
import pytest
from tests.secure_aggregation.driven import Attempt

from fedlens.errors import ProtocolError


def vectors(count: int, dtype=np.uint64, length: int = 50):
    rng = np.random.default_rng(count)
    top = np.iinfo(dtype).max
    return {f"client{index:02}": rng.integers(0, top, length, dtype, endpoint=True) for index in range(count)}


def plain(given, names):
    return sum((given[name] for name in names), np.zeros_like(next(iter(given.values()))))


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
@pytest.mark.parametrize(("count", "neighbours"), [(2, None), (3, None), (10, None), (16, 6), (64, 8)])
def test_the_sum_is_that_of_the_plain_vectors(count: int, neighbours: int | None, dtype) -> None:
    given = vectors(count, dtype)
    assert (Attempt(given, neighbours=neighbours).run() == plain(given, given)).all()


@pytest.mark.parametrize("stage", ["keys", "shares", "masked", "survivors", "unmasking"])
@pytest.mark.parametrize(("count", "neighbours", "threshold"), [(3, None, 0.5), (10, None, 2 / 3), (64, 10, 0.5)])
def test_clients_that_drop_out_are_recovered_from(count, neighbours, threshold, stage: str) -> None:
    given = vectors(count)
    gone = set(sorted(given)[1 : 2 + count // 16])
    attempt = Attempt(given, threshold, neighbours, gone={stage: gone})
    counted = set(given) if stage in ("survivors", "unmasking") else set(given) - gone
    assert (attempt.run() == plain(given, counted)).all()
    assert set(attempt.server.survivors) == counted


def test_clients_may_drop_out_at_every_stage_of_one_round() -> None:
    given = vectors(20)
    names = sorted(given)
    stages = ("keys", "shares", "masked", "survivors", "unmasking")
    attempt = Attempt(given, gone={stage: {names[place]} for place, stage in enumerate(stages)})
    assert (attempt.run() == plain(given, names[3:])).all()


@pytest.mark.parametrize(("stage", "gone"), [("unmasking", 5), ("survivors", 5)])
def test_below_the_threshold_the_sum_stays_masked(stage: str, gone: int) -> None:
    given = vectors(10)
    attempt = Attempt(given, 0.6, gone={stage: set(sorted(given)[:gone])})
    with pytest.raises(ProtocolError):
        attempt.run()
    left = attempt.server._sum
    assert left is not None and not (left == plain(given, given)).any()


def test_a_client_signs_no_list_that_is_shorter_than_the_threshold() -> None:
    given = vectors(10)
    attempt = Attempt(given, 0.6, gone={"masked": set(sorted(given)[:5])})
    with pytest.raises(ProtocolError, match="5 survivors, of which 6 are needed"):
        attempt.run()
