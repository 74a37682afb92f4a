"""What mechanisms cost and draw. Correlated noise is C⁻¹z by a dense matrix, and that of jax-privacy 2.0.0."""

import numpy as np
import pytest
import torch
from tests.privacy.test_factorization import dense
from tests.problems import refuses
from torch import Tensor

from fedlens.core.types import State
from fedlens.privacy.accounting import Release, epsilon
from fedlens.privacy.factorization import BufferedToeplitz
from fedlens.privacy.mechanisms import DPFTRL, Cyclic, Gaussian, Mechanism, Poisson

LIKE = {"weight": torch.empty(2, 3), "bias": torch.empty(4)}


def normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64)


def drawn(mechanism: Mechanism, rounds: int, like: State, seed: int = 0) -> list[State]:
    """The noise of all rounds."""
    generator = torch.Generator().manual_seed(seed)
    kept: State = {}
    noise = []
    for number in range(1, rounds + 1):
        one, kept = mechanism.draw(number, like, lambda like: normal(like, generator), kept)
        assert {tensor.dtype for name, tensor in kept.items() if name.startswith("buffer")} <= {torch.float32}
        noise.append(one)
    return noise


def test_gaussian_noise_with_poisson_sampling() -> None:
    assert Gaussian(1.5, Poisson(0.1)).releases(7) == {Release(1.5, 0.1): 7}
    assert Gaussian(1.5, Poisson(0.1)).releases(7, repeats=2) == {Release(1.5, 0.1): 9}


@pytest.mark.parametrize(("rounds", "participations"), [(0, 0), (1, 1), (5, 1), (6, 2), (10, 2), (11, 3)])
def test_gaussian_noise_for_clients_that_take_turns(rounds: int, participations: int) -> None:
    assert Gaussian(1.5, Cyclic(5)).releases(rounds) == {Release(1.5): participations}
    assert Gaussian(1.5, Cyclic(5)).releases(rounds, repeats=1) == {Release(1.5): participations + 1}


def test_gaussian_noise_is_independent_and_keeps_nothing() -> None:
    noise, kept = Gaussian(3.0, Poisson(0.1)).draw(1, LIKE, torch.ones_like, {})
    assert kept == {}
    assert {name: tensor.unique().tolist() for name, tensor in noise.items()} == {"weight": [3.0], "bias": [3.0]}
    assert noise["weight"].shape == (2, 3)


def test_correlated_noise_costs_one_release_of_the_whole_run() -> None:
    mechanism = DPFTRL(2.0, Cyclic(10), rounds=100)
    assert mechanism.releases(0) == {}
    (whole,) = mechanism.releases(100)
    assert whole.noise_multiplier == pytest.approx(2.0)
    assert list(mechanism.releases(100, repeats=3).values()) == [4]
    spent = [epsilon(mechanism.releases(rounds), 1e-5).value for rounds in range(1, 101)]
    assert spent == sorted(spent)


def test_a_part_of_a_run_costs_less() -> None:
    """In the first round a client has contributed c₀ = 1 of C's columns at most, so z has the whole sensitivity."""
    mechanism = DPFTRL(2.0, Cyclic(10), rounds=100)
    (first,) = mechanism.releases(1)
    columns = dense(mechanism.matrix, 100)[:, ::10]
    assert first.noise_multiplier == pytest.approx(2.0 * np.linalg.norm(columns.sum(axis=1)))


def test_correlated_noise_is_rows_of_the_inverse(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = BufferedToeplitz((0.9, 0.5), (0.25, 0.3))
    monkeypatch.setattr("fedlens.privacy.mechanisms.best", lambda rounds, separation: matrix)
    z = [-1.0, 2.0, -3.0, 4.0, -5.0, 6.0, -7.0, 8.0, -9.0, 10.0, -11.0, 12.0]
    mechanism = DPFTRL(1 / float(matrix.sensitivities(12, 4)[-1]), Cyclic(4), rounds=12)
    values = iter(z)
    kept: State = {}
    found = []
    for number in range(1, 13):
        noise, kept = mechanism.draw(number, {"w": torch.empty(1)}, lambda like: torch.tensor([next(values)]), kept)
        found.append(noise["w"].item())
    assert found[:4] == pytest.approx([-1.0, 2.55, -4.0275, 5.536375])  # jax-privacy
    assert found[11] == pytest.approx(17.500082960952202)  # jax-privacy
    assert found == pytest.approx(np.linalg.solve(dense(matrix, 12), z))


def test_buffers_of_32_bits_are_enough() -> None:
    rounds = 400
    mechanism = DPFTRL(1.0, Cyclic(40), rounds)
    noise = torch.stack([one["w"] for one in drawn(mechanism, rounds, {"w": torch.empty(50)})])
    generator = torch.Generator().manual_seed(0)
    z = torch.stack([normal(torch.empty(50), generator) for _ in range(rounds)]).numpy()
    exact = np.linalg.solve(dense(mechanism.matrix, rounds), mechanism.deviation(1) * z)
    assert noise.dtype == torch.float64
    assert np.abs(noise.numpy() - exact).max() < 1e-6 * np.abs(exact).max()


@pytest.mark.parametrize("mechanism", [Gaussian(1.5, Cyclic(5)), DPFTRL(1.5, Cyclic(5), 20)])
def test_the_sum_of_all_noise_has_the_deviation_that_is_told(mechanism: Mechanism) -> None:
    noise = drawn(mechanism, 20, {"w": torch.empty(40_000)})
    for rounds in (1, 2, 20):
        found = torch.stack([one["w"] for one in noise[:rounds]]).sum(0).std().item()
        assert found == pytest.approx(mechanism.deviation(rounds), rel=0.02)  # 5 standard errors: 5 / √80,000


def test_covariance_of_rounds() -> None:
    """Cov(C⁻¹z) = σ² sens² C⁻¹ C⁻ᵀ."""
    mechanism = DPFTRL(0.7, Cyclic(3), 6)
    noise = torch.stack([one["w"] for one in drawn(mechanism, 6, {"w": torch.empty(100_000)})]).double().numpy()
    inverse = np.linalg.inv(dense(mechanism.matrix, 6)) * mechanism.deviation(1)
    assert np.cov(noise) == pytest.approx(inverse @ inverse.T, abs=0.02 * mechanism.deviation(1) ** 2)


def test_correlated_noise_holds_less_in_all() -> None:
    """At the same ε of a run of 100 rounds."""
    independent, correlated = Gaussian(10**0.5, Cyclic(10)), DPFTRL(1.0, Cyclic(10), 100)
    assert epsilon(independent.releases(100), 1e-5).value == pytest.approx(
        epsilon(correlated.releases(100), 1e-5).value
    )
    assert correlated.deviation(100) < 0.5 * independent.deviation(100)


def test_a_round_that_was_left_out_counts_as_a_row() -> None:
    mechanism = DPFTRL(1.0, Cyclic(10), 100)

    def ones(like: Tensor) -> Tensor:
        return torch.ones_like(like)

    like = {"w": torch.empty(1)}
    _, kept = mechanism.draw(1, like, ones, {})
    _, then = mechanism.draw(2, like, ones, kept)
    whole, _ = mechanism.draw(3, like, ones, then)
    left_out, _ = mechanism.draw(3, like, ones, kept)
    assert left_out["w"].item() == whole["w"].item()
    with pytest.raises(ValueError, match="round 2"):
        mechanism.draw(2, like, ones, then)


def test_kept_noise_is_that_of_the_same_plan() -> None:
    _, kept = DPFTRL(1.0, Cyclic(10), 100).draw(1, LIKE, torch.zeros_like, {})
    with refuses(("fixed", "privacy.mechanism")):
        DPFTRL(1.0, Cyclic(10), 120).draw(2, LIKE, torch.zeros_like, kept)
