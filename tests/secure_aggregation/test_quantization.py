"""Fixed-point numbers: sums are exact, and no cohort overflows the modulus."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.problems import refuses

from fedlens.errors import ProtocolError
from fedlens.secure_aggregation.quantization import LARGEST, Quantization, packed, travelling


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("cohort", [2, 3, 64, 1000])
def test_the_largest_sum_does_not_overflow(bits, cohort: int) -> None:
    how = Quantization.of(bits, LARGEST[bits], 600.0, cohort)
    for value in (how.bound, -how.bound):
        one = how.quantized({"x": torch.tensor([value], dtype=torch.float64)})
        exact = cohort * round(value * 2.0**how.exponent)
        assert abs(exact) < 2 ** (bits - 1)
        total = (np.ones(1, one.dtype) * cohort) * one
        assert how.sums(total, {"x": torch.zeros(1)})["x"].item() == exact / 2.0**how.exponent
    assert 2 ** (bits - 1) <= 4 * cohort * how.bound * 2.0**how.exponent, "no more than two bits are given away"


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize(("largest", "spread"), [(1.0, 0.2), (0.01, 0.5), (30.0, 1.0)])
def test_there_is_room_for_the_noise_of_all(bits, largest: float, spread: float) -> None:
    """Sums of 100 clients: of the largest numbers or weights, and 32 standard deviations of noise: TAIL."""
    how = Quantization.with_noise(bits, [(largest, spread)], 100)
    exact = (100 * max(largest, 1.0) + 32 * spread * 100**0.5) * 2.0**how.exponent + 100
    assert 2 ** (bits - 3) < exact < 2 ** (bits - 1)
    assert (how.weight, how.bound) == (1.0, max(largest, 1.0))


@pytest.mark.parametrize(
    "numbers", [[(1e-7, 1.0)], [(1.0, 1e-7)], [(1.0, 1e6)], [(1.0, 1.0), (0.5, 1e6)], [(1e9, 1e9)]]
)
def test_noise_that_needs_finer_steps_than_there_are_is_refused(numbers) -> None:
    """The last has steps of 32, and a weight of 1 would be rounded to 0."""
    Quantization.with_noise(64, numbers, 100)
    with refuses(("incompatible", "privacy.secure_bits")):
        Quantization.with_noise(32, numbers, 100)


def test_sums_are_those_of_the_rounded_numbers() -> None:
    """2⁻²⁰ is far above the steps: sums of its multiples are exact."""
    how = Quantization.of(64, 100.0, 10.0, 5)
    generator = torch.Generator().manual_seed(0)
    states = [
        {
            "b": torch.randint(-(2**20), 2**20, (3, 4), generator=generator).double() / 2**20,
            "a": torch.randint(-(2**20), 2**20, (), generator=generator).double() / 2**20,
        }
        for _ in range(5)
    ]
    vectors = [how.quantized(state) for state in states]
    found = how.sums(sum(vectors[1:], vectors[0]), states[0])
    for name in ("a", "b"):
        assert torch.equal(found[name], sum(state[name] for state in states))


@pytest.mark.parametrize("bits", [32, 64])
def test_what_travels_is_read_as_it_was_sent(bits) -> None:
    how = Quantization.of(bits, 4.0, 1.0, 3)
    state = {"head.weight": torch.tensor([[1.5, -2.0]]), "bias": torch.tensor(0.25)}
    vector = how.quantized(state)
    sent = travelling(vector, state)
    assert {value.dtype for value in sent.values()} == {how.dtype}
    assert sent["head.weight"].shape == (1, 2) and sent["bias"].shape == ()
    assert (packed(sent, bits) == vector).all()


@pytest.mark.parametrize("value", [4.1, -4.1, float("nan"), float("inf")])
def test_a_number_beyond_the_bound_is_refused(value: float) -> None:
    with pytest.raises(ProtocolError, match="has a number that is larger than the round was set up for") as caught:
        Quantization.of(32, 4.0, 1.0, 3).quantized({"head": torch.tensor([0.0, value])})
    assert "head" not in str(caught.value) and "4.1" not in str(caught.value), "it travels to the server"


def test_a_cohort_that_does_not_fit_is_refused() -> None:
    Quantization.of(32, 4.0, 1.0, 10_000)
    Quantization.of(64, 4.0, 1.0, 10**9)
    with refuses(("incompatible", "privacy.secure_bits")):
        Quantization.of(32, 4.0, 1.0, 100_000)
