"""Distributed differential privacy: what shares add up to, what that hides, and what it costs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from tests.secure_aggregation.driven import Attempt

from fedlens.core.types import ClientReport, ClientResult
from fedlens.errors import ProtocolError
from fedlens.privacy.adaptive_clip import CLIP
from fedlens.privacy.base import Federation
from fedlens.privacy.central import Central
from fedlens.privacy.distributed import LEAST_DEVIATION, SMOOTH, DistributedGaussian, GaussianShare, SharedNoiseUpdate
from fedlens.privacy.ledger import Spent
from fedlens.privacy.mechanisms import Cyclic, Gaussian
from fedlens.privacy.noise import insecure_key
from fedlens.secure_aggregation.graph import honest_survivors
from fedlens.secure_aggregation.quantization import Quantization
from fedlens.training.tasks.secure_train import SecureTrainSettings, add_noise, masked_update
from fedlens.transforms.base import SumNoise

SHARES = GaussianShare(0.5, 2.0, lambda *place: insecure_key(3, *place))


def hockey_stick(loss: np.ndarray, probability: np.ndarray, epsilon: float) -> float:
    return float((probability * (1 - np.exp(epsilon - loss)).clip(0)).sum())


@pytest.mark.parametrize("honest", [1, 3, 6])
@pytest.mark.parametrize("sensitivity", [3, 40])
def test_shares_of_the_least_size_hide_what_the_claim_says(honest: int, sensitivity: int) -> None:
    """The δ of their sum, from exact probabilities, is at most that of the Gaussian noise that is accounted for; for
    the same ε, whatever it is."""
    places = np.arange(-200, 201)
    one = np.exp(-(places**2) / (2 * LEAST_DEVIATION**2))
    total = np.ones(1)
    for _ in range(honest):
        total = np.convolve(total, one / one.sum())
    sigma = math.sqrt(honest * LEAST_DEVIATION**2 - SMOOTH**2) / sensitivity
    moved, still = total[sensitivity:], total[:-sensitivity]
    loss = np.log(moved.clip(1e-300)) - np.log(still.clip(1e-300))
    for epsilon in np.linspace(0, 4, 9):
        exact = hockey_stick(loss, moved, epsilon) + total[:sensitivity].sum()
        half = 1 / (2 * sigma)
        gaussian = stats.norm.cdf(half - epsilon * sigma) - np.exp(epsilon) * stats.norm.cdf(-half - epsilon * sigma)
        assert exact <= gaussian + 1e-12


def test_the_deviation_of_a_share() -> None:
    """By hand: clip 0.5 in steps of 2⁻¹⁰ is 512; 100 coordinates may be rounded by √100 / 2 = 5 together; σ = 2."""
    assert SHARES.deviation(100, 2.0**-10, 4) == pytest.approx(math.sqrt(((2 * 517) ** 2 + 36) / 4), rel=1e-7)
    assert SHARES.spread(4) == 0.5


@pytest.mark.parametrize(
    ("clients", "least", "honest"), [(2, 2, 1), (3, 2, 1), (5, 4, 3), (10, 7, 5), (100, 67, 47), (1000, 667, 467)]
)
def test_a_fifth_of_the_clients_may_be_dishonest(clients: int, least: int, honest: int) -> None:
    assert honest_survivors(clients, least) == honest


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("lost", [0, 1])
def test_an_opened_sum_has_noise_for_the_honest_survivors(bits, lost: int) -> None:
    """Of 7 clients 5 have to stay (two thirds), and 2 may be dishonest: 3 shares hide a client, and there are 7 or 6.
    Of every client 20,000 coordinates ⅟₁₀₀₀: their sum is the number of survivors times that."""
    size, names = 20_000, [f"c{index}" for index in range(7)]
    how = Quantization.with_noise(bits, [(SHARES.largest, SHARES.spread(3))], 7)
    numbers = {"update/x": torch.full((size,), 1e-3)}
    vectors = {name: how.quantized(numbers) for name in names}
    plain = Attempt(vectors, threshold=2 / 3)
    plain.run()
    for name in names:
        assert plain.states[name].honest == 3
        add_noise(SumNoise(SHARES), vectors[name], numbers, plain.states[name], how)
    found = how.sums(Attempt(vectors, 2 / 3, gone={"masked": set(names[:lost])}).run(), {"x": torch.empty(size)})[
        "x"
    ].numpy()
    noise = found - (7 - lost) * 1e-3
    least, has = (SHARES.noise_multiplier * SHARES.largest) ** 2, (7 - lost) / 3
    assert noise.var() == pytest.approx(least * has, rel=5 * (2 / size) ** 0.5)
    assert noise.var() > least
    assert stats.kstest(noise / noise.std(), "norm").pvalue > 1e-3


def trained(name: str) -> ClientResult:
    return ClientResult(1, "train", ClientReport(name, 1.0, {}), {"w": torch.zeros(5000)})


def test_two_clients_add_other_noise_and_one_client_other_noise_in_each_attempt() -> None:
    """With keys of the operating system. Masks are taken off, so that noise alone is compared."""
    secret = Central(secure_aggregation=True).transform(Federation(0, 1, 1.0))
    assert isinstance(secret, SharedNoiseUpdate)
    how = Quantization.with_noise(64, [(1.0, 1.0)], 3)
    drawn = []
    for _ in range(2):
        attempt = Attempt({name: np.zeros(5001, np.uint64) for name in ("a", "b", "c")}, 2 / 3)
        attempt._keys(lambda _name, message: message)
        attempt._shares(lambda _name, message: message)
        for name in ("a", "b"):
            present = attempt.server.present(name)
            sent = [
                masked_update(attempt.states[name], trained(name), SecureTrainSettings(
                    present=present, bits=64, exponent=how.exponent, weight=1.0, bound=how.bound
                ), noise)[1]
                for noise in (secret.sum_noise({}, 3), None)
            ]  # fmt: skip
            assert torch.equal(sent[0]["weight"], sent[1]["weight"]), "how many clients there are has no noise"
            drawn.append((sent[0]["update/w"] - sent[1]["update/w"]).double().numpy())
    for index, one in enumerate(drawn):
        assert one.std() > 0
        for other in drawn[:index]:
            assert not (one == other).any()
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.06


def test_without_noise_nothing_is_added() -> None:
    free = GaussianShare(0.5, 0.0, lambda *_: pytest.fail("no key is needed"))
    assert free.draw(10, 2.0**-10, 3) is None


@pytest.mark.parametrize("step", [1.0, 2.0**-70])
def test_a_grid_that_noise_does_not_fit_on_is_refused(step: float) -> None:
    with pytest.raises(ProtocolError, match=r"its noise would be .* steps of the grid"):
        SHARES.draw(10, step, 3)


def test_it_costs_what_gaussian_noise_costs() -> None:
    """ε by hand, from Theorem 8 of Balle and Wang 2018: four rounds in which two groups take turns are two
    participations, so Gaussian noise of σ = 3/√2; and one more for a round that was opened twice."""
    claim = Central(noise_multiplier=3.0, secure_aggregation=True, delta=1e-5).claim(Federation(20, 4, 0.5))
    assert isinstance(claim.mechanism, DistributedGaussian) and claim.shared
    for spent, participations in ((Spent(4), 2), (Spent(4, 1), 3)):
        found, sigma = claim.epsilon(spent), 3 / participations**0.5
        half = 1 / (2 * sigma)
        delta = stats.norm.cdf(half - found.value * sigma) - math.exp(found.value) * stats.norm.cdf(
            -half - found.value * sigma
        )
        assert delta == pytest.approx(1e-5, rel=1e-6)
        assert found.accountant == "closed form"
    assert claim.terms != Gaussian(3.0, Cyclic(2)).terms == {**claim.terms, "mechanism": "Gaussian"}


def test_the_noise_that_is_expected_when_nobody_is_lost() -> None:
    """100 of 1,000 clients: 67 have to stay, 20 may be dishonest, so the sum has the variance of 100 shares of 47."""
    claim = Central(secure_aggregation=True).claim(Federation(1000, 10, 0.1))
    assert claim.cohort == 100
    assert claim.spread == pytest.approx(math.sqrt(100 / 47) / 100)


def told(clip: float) -> dict[str, torch.Tensor]:
    return {CLIP: torch.tensor(clip, dtype=torch.float64)}


@pytest.mark.parametrize(("clients", "bits"), [(100, 5.0), (40, 2.0), (10, 2.0)])
def test_an_adaptive_clip_shares_the_budget_with_its_bits(clients: int, bits: float) -> None:
    """σ_b is a twentieth of the cohort, or σ = 2 where that is less; (1/z)² + (1/2σ_b)² = 1/σ² whatever it is: Theorem
    1 of Andrew et al. 2021. The clip is the one of the round."""
    adaptive = SharedNoiseUpdate(0.1, True, noise_multiplier=2.0, key=lambda *_: b"")
    noise = adaptive.sum_noise(told(0.7), clients)
    assert noise.extra is not None
    assert noise.extra.spread(1) == pytest.approx(bits)
    z = noise.update.spread(1) / 0.7
    assert z**-2 + (2 * bits) ** -2 == pytest.approx(0.25)
    assert (noise.update.largest, noise.extra.largest) == (0.7, 0.5)
