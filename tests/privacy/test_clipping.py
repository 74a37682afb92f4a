"""The bound on one client's update: the joint norm over all tensors, whatever numbers they hold."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedlens.privacy.clipping import clip_factor, clipped, exact_norm

SHAPES = st.lists(st.lists(st.integers(0, 4), max_size=3), max_size=4)


def test_the_norm_is_of_all_tensors_together():
    long = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor(4.0)}  # √(3² + 4²) = 5
    half = clipped(long, 2.5)
    assert half["a"].tolist() == pytest.approx([1.5, 0.0], rel=1e-5)
    assert float(half["b"]) == pytest.approx(2.0, rel=1e-5)
    assert clipped(long, 5.0) is long  # to the bit
    assert exact_norm(clipped(long, 4.99).values()) <= 4.99


@given(SHAPES, st.floats(1e-6, 1e6), st.integers(0, 2**31), st.floats(-30, 30))
def test_no_update_is_longer_than_the_clip(shapes, clip, seed, size):
    generator = torch.Generator().manual_seed(seed)
    state = {str(place): torch.randn(shape, generator=generator) * 10**size for place, shape in enumerate(shapes)}
    norm, after = exact_norm(state.values()), clipped(state, clip)
    assert exact_norm(after.values()) <= clip * (1 if norm > clip else 1 + 1e-12)
    assert {name: (value.shape, value.dtype) for name, value in after.items()} == {
        name: (value.shape, value.dtype) for name, value in state.items()
    }


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_count_nothing(bad):
    after = clipped({"a": torch.tensor([1.0, bad]), "b": torch.tensor([1.0])}, 1.0)
    assert after["a"].tolist() == [0.0, 0.0]
    assert after["b"].tolist() == [0.0]


def test_numbers_whose_squares_overflow_float32_are_clipped():
    after = clipped({"a": torch.full((2,), 1e30)}, 1.0)
    assert after["a"].tolist() == pytest.approx([0.5**0.5] * 2, rel=1e-5)


def test_nothing_and_zeros_stay():
    assert clipped({}, 1.0) == {}
    zeros = {"a": torch.zeros(3)}
    assert clipped(zeros, 1e-9) is zeros
    assert clip_factor(0.0, 1.0) == 1.0
