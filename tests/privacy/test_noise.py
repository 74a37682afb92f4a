"""The noise is normal, and nobody can compute it again."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from scipy import stats

from fedlens.core.randomness import KEY_BYTES, random_bytes
from fedlens.errors import RuntimeFailure
from fedlens.privacy.noise import insecure_key, normal_from


def test_the_numbers_are_standard_normal_and_independent():
    numbers = normal_from(insecure_key(1))(torch.empty(200_000))
    assert numbers.dtype == torch.float64
    assert stats.kstest(numbers.numpy(), "norm").pvalue > 0.001
    assert abs(float(numbers.mean())) < 4 / 200_000**0.5
    assert float(numbers.var()) == pytest.approx(1, abs=4 * (2 / 200_000) ** 0.5)
    assert stats.kurtosis(numbers.numpy()) == pytest.approx(0, abs=4 * (24 / 200_000) ** 0.5)
    together = np.corrcoef(numbers[:-1].numpy(), numbers[1:].numpy())[0, 1]
    assert abs(together) < 4 / 200_000**0.5


def test_tails_are_not_cut():
    """P(|x| > 4) = 6.3e-5: about 63 in a million, and the standard deviation of that count is 8."""
    beyond = int((normal_from(insecure_key(2))(torch.empty(1_000_000)).abs() > 4).sum())
    assert 63 - 4 * 8 < beyond < 63 + 4 * 8


def test_two_sources_never_give_the_same(monkeypatch: pytest.MonkeyPatch):
    one, other = (normal_from(random_bytes(KEY_BYTES))(torch.empty(1000)) for _ in range(2))
    assert not bool((one == other).any())
    assert abs(np.corrcoef(one, other)[0, 1]) < 4 / 1000**0.5
    source = normal_from(random_bytes(KEY_BYTES))
    assert not bool((source(torch.empty(1000)) == source(torch.empty(1000))).any())


def test_a_known_seed_gives_the_same_numbers_again_and_another_place_others():
    def numbers(*place: int) -> torch.Tensor:
        return normal_from(insecure_key(5, *place))(torch.empty(2, 3))

    assert torch.equal(numbers(1), numbers(1))
    assert not torch.equal(numbers(1), numbers(2))
    assert normal_from(insecure_key(5))(torch.empty(0, 3)).shape == (0, 3)
    assert normal_from(insecure_key(5))(torch.empty(())).shape == ()


def test_a_system_without_randomness_is_refused(monkeypatch: pytest.MonkeyPatch):
    def none(_size: int) -> bytes:
        raise NotImplementedError

    monkeypatch.setattr(os, "urandom", none)
    with pytest.raises(RuntimeFailure, match="no secure source of random numbers"):
        random_bytes(KEY_BYTES)
