"""Coins of Poisson sampling: as many calls to the system as rounds, and of the right frequency."""

from __future__ import annotations

import os

import numpy as np
import pytest
from tests.helpers import infos, tiny_data

from fedlens.federation.sampling import PoissonSampler, system_coins


def test_a_round_asks_the_system_once_for_all_coins(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def urandom(size: int) -> bytes:
        asked.append(size)
        return b"\xff" * 8 + bytes(size - 8)  # the first coin almost 1, the others 0

    monkeypatch.setattr(os, "urandom", urandom)
    clients = infos(tiny_data(clients=10))
    assert PoissonSampler(0.999, 0).choose(1, clients) == clients[1:]
    assert asked == [80]


def test_coins_of_the_system_are_uniform_below_1() -> None:
    coins = system_coins(200_000)
    assert 0 <= coins.min() < 1e-3
    assert 1 - 1e-3 < coins.max() < 1
    counts = np.histogram(coins, 10, (0, 1))[0]
    assert abs(counts - 20_000).max() < 8 * np.sqrt(18_000)  # Binomial(200,000, 0.1)


def test_coins_of_a_known_seed_repeat_and_differ_by_round() -> None:
    clients = infos(tiny_data(clients=40))
    one, again, other = (PoissonSampler(0.5, 0, insecure_seed=7).choose(number, clients) for number in (1, 1, 2))
    assert one == again != other
