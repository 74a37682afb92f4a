from __future__ import annotations

import itertools
import math

import pytest

from fedlens.secure_aggregation.graph import _at_least, connected, graph, holders_needed, neighbours_needed

NAMES = [f"client{index}" for index in range(20)]


@pytest.mark.parametrize(("asked", "there"), [(2, 2), (5, 6), (6, 6), (18, 18), (19, 19), (50, 19)])
def test_every_client_has_as_many_neighbours(asked: int, there: int) -> None:
    found = graph(NAMES, asked)
    assert {len(neighbours) for neighbours in found.values()} == {there}
    assert all(name in found[other] for name in NAMES for other in found[name])
    assert all(name not in found[name] for name in NAMES)


def test_places_are_drawn_anew() -> None:
    assert graph(NAMES, 4) != graph(NAMES, 4)


def test_a_ring_with_gaps_is_in_parts() -> None:
    """Of nine places in a ring, every third one is gone: three pairs are left, with no masks between the pairs."""
    ring = {str(place): frozenset({str((place - 1) % 9), str((place + 1) % 9)}) for place in range(9)}
    assert connected(ring, ring)
    assert connected(ring, [name for name in ring if name != "4"]), "an open ring is still a chain"
    assert not connected(ring, ["0", "1", "3", "4", "6", "7"])


def test_hypergeometric_tail_by_counting() -> None:
    """7 balls, 3 of them marked, 4 drawn: counted over all 35 draws."""
    draws = list(itertools.combinations(range(7), 4))
    for least in range(5):
        counted = sum(sum(ball < 3 for ball in draw) >= least for draw in draws) / len(draws)
        assert _at_least(least, 7, 3, 4) == pytest.approx(counted)


def test_small_cohorts_mask_with_everybody_and_large_ones_with_few() -> None:
    """The number of neighbours grows with the logarithm of the cohort (Bell et al. 2020, Theorem 3.10): from 1,000 to
    10,000 clients by less than the cohorts' ratio of logarithms."""
    assert neighbours_needed(10, 2 / 3) == 9
    thousand, ten_thousand = neighbours_needed(1_000, 2 / 3), neighbours_needed(10_000, 2 / 3)
    assert thousand < 150
    assert ten_thousand / thousand < math.log(10_000) / math.log(1_000)


@pytest.mark.parametrize(("clients", "share", "needed"), [(3, 2 / 3, 2), (10, 2 / 3, 7), (2, 0.5, 2), (10, 0.5, 6)])
def test_how_many_are_needed(clients: int, share: float, needed: int) -> None:
    assert holders_needed(clients, share) == needed
