"""DP-SGD at a client: noise, batches, its ledger, and what its steps cost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from opacus.accountants.analysis import rdp
from tests.problems import refuses

from fedlens.errors import CheckpointError, PrivacyBudgetExceeded
from fedlens.privacy.accounting import ORDERS, epsilon, rdp_epsilon
from fedlens.privacy.base import Federation
from fedlens.privacy.dp_sgd import PrivateSteps, Steps, batches_of
from fedlens.privacy.example import Example
from fedlens.privacy.noise import coins_from, insecure_key, normal_from

FEDERATION = Federation(3, rounds=10, fraction=1.0, batch_size=32, epochs=2, images=(100, 320, 1000))


def private_steps(mechanism: Steps, images: int = 320, clip: float = 0.5) -> PrivateSteps:
    return PrivateSteps(mechanism, clip, images, normal_from(insecure_key(1)), coins_from(insecure_key(2)))


def test_the_noise_of_a_step_is_sigma_clip_over_the_expected_batch():
    """320 images, a tenth of them in a step: 32. 4 standard errors of a variance of 200,000 numbers are 1.3 %."""
    total = torch.full((200_000,), 64.0)
    private_steps(Steps.of(3.0, batches=10, epochs=1)).add_noise(total)
    assert float(total.mean()) == pytest.approx(64 / 32, abs=4 * 3.0 * 0.5 / 32 / 200_000**0.5)
    assert float(total.var()) == pytest.approx((3.0 * 0.5 / 32) ** 2, rel=0.013)


def test_every_image_takes_part_by_a_coin_of_its_own():
    """2,000 steps with 320 coins at 0.1 each: the batch has 32 images on average, with a variance of 28.8, and every
    image is in 200 batches, give or take 4 · √180."""
    masks = torch.stack(list(private_steps(Steps.of(1.0, batches=10, epochs=200)).batches()))
    assert masks.shape == (2000, 320)
    sizes = masks.sum(1).double()
    assert float(sizes.mean()) == pytest.approx(32, abs=4 * (28.8 / 2000) ** 0.5)
    assert float(sizes.var()) == pytest.approx(28.8, rel=4 * (2 / 2000) ** 0.5)
    assert 200 - 5 * 180**0.5 < float(masks.sum(0).min()) < float(masks.sum(0).max()) < 200 + 5 * 180**0.5


def test_steps_that_are_not_accounted_for_are_refused():
    steps = private_steps(Steps.of(1.0, batches=1, epochs=1))
    steps.add_noise(torch.zeros(3))
    with refuses(("incompatible", "personalization.name")):
        steps.add_noise(torch.zeros(3))


@pytest.mark.filterwarnings("ignore:Optimal order is the smallest:UserWarning")
@pytest.mark.parametrize("sigma", [0.6, 1.0, 4.0])
@pytest.mark.parametrize("batches", [1, 10, 200])
@pytest.mark.parametrize("rounds", [1, 50])
@pytest.mark.parametrize("delta", [1e-5, 1e-3])
def test_what_steps_cost_is_what_opacus_counts(sigma: float, batches: int, rounds: int, delta: float):
    """Its Rényi accountant with our orders; the one that counts is tighter, or equal."""
    releases = Steps.of(sigma, batches, epochs=2).releases(rounds)
    curve = rdp.compute_rdp(q=1 / batches, noise_multiplier=sigma, steps=2 * batches * rounds, orders=list(ORDERS))
    theirs, _ = rdp.get_privacy_spent(orders=list(ORDERS), rdp=curve, delta=delta)
    assert rdp_epsilon(releases, delta) == pytest.approx(theirs, rel=1e-3)
    assert epsilon(releases, delta).value <= theirs * (1 + 1e-3)


def test_a_round_is_in_the_ledger_before_its_first_step(tmp_path: Path):
    dp_sgd = Example().dp_sgd(FEDERATION)
    dp_sgd.begin(tmp_path, "a", 1, 320)
    dp_sgd.begin(tmp_path, "a", 1, 320)
    first, *lines = map(json.loads, (tmp_path / "privacy.jsonl").read_text().splitlines())
    assert first["mechanism"] == {"mechanism": "Steps", "noise_multiplier": 1.0, "steps": 20, "probability": 0.1}
    assert lines == [{"round": 1}, {"round": 1}]
    with pytest.raises(CheckpointError, match="A run keeps its mechanism"):
        dp_sgd.begin(tmp_path, "a", 2, 640)


def test_a_client_keeps_its_own_budget_and_does_not_tell_its_epsilon(tmp_path: Path):
    cost = [epsilon(Steps.of(1.0, 10, 2).releases(rounds), 1e-5).value for rounds in (1, 2, 3)]
    dp_sgd = Example(budget=cost[1] + 1e-3).dp_sgd(FEDERATION)
    for number in (1, 2):
        dp_sgd.begin(tmp_path, "a", number, 320)
    with pytest.raises(PrivacyBudgetExceeded, match=r"^this client's privacy budget is spent") as caught:
        dp_sgd.begin(tmp_path, "a", 3, 320)
    assert f"{cost[2]:.2g}" not in str(caught.value)
    assert len((tmp_path / "privacy.jsonl").read_text().splitlines()) == 1 + 2


def test_too_few_images_take_no_part(tmp_path: Path):
    with pytest.raises(PrivacyBudgetExceeded, match=r"fewer training images than privacy\.min_images = 200"):
        Example(min_images=200).dp_sgd(FEDERATION).begin(tmp_path, "a", 1, 199)
    assert not list(tmp_path.iterdir())


def test_noise_and_batches_differ_and_repeat_only_with_an_insecure_seed(tmp_path: Path):
    def made(mode: Example, client: str = "a") -> tuple[torch.Tensor, torch.Tensor]:
        steps = mode.dp_sgd(FEDERATION).begin(tmp_path / client, client, 1, 320)
        total = torch.zeros(100)
        steps.add_noise(total)
        return total, torch.stack(list(steps.batches()))

    insecure = Example(insecure_seed=3)
    known, again, other = made(insecure), made(insecure), made(insecure, "b")
    assert torch.equal(known[0], again[0])
    assert torch.equal(known[1], again[1])
    for one in (other, made(Example())):
        assert not torch.equal(known[0], one[0])
        assert not torch.equal(known[1], one[1])


@pytest.mark.parametrize("sigma", [0.4, 0.7, 1.0, 3.0])
def test_a_simulation_claims_the_largest_epsilon_of_its_clients(sigma: float):
    claim = Example(noise_multiplier=sigma).claim(FEDERATION)
    own = [Steps.of(sigma, batches_of(images, 32), 2).releases(10) for images in FEDERATION.images]
    assert rdp_epsilon(claim.mechanism.releases(10), 1e-5) == max(rdp_epsilon(one, 1e-5) for one in own)


@pytest.mark.parametrize("sigma", [0.4, 0.7, 1.0, 3.0])
def test_what_is_claimed_from_the_fewest_images_holds_for_more(sigma: float):
    claim = Example(noise_multiplier=sigma, min_images=100).claim(replace(FEDERATION, images=()))
    claimed = rdp_epsilon(claim.mechanism.releases(10), 1e-5)
    for batches in (4, 5, 6, 8, 12, 20, 50, 400, 2000):
        assert rdp_epsilon(Steps.of(sigma, batches, 2).releases(10), 1e-5) <= claimed, batches


def test_between_sites_somebody_has_to_say_how_few_images_there_may_be():
    with refuses(("missing", "privacy.min_images")):
        Example().claim(replace(FEDERATION, images=()))


def test_every_client_reaches_the_target_with_noise_of_its_own():
    mode = Example(target_epsilon=3.0)
    found = [mode.dp_sgd(FEDERATION).mechanism(batches_of(images, 32)) for images in FEDERATION.images]
    assert found[0].noise_multiplier > found[1].noise_multiplier > found[2].noise_multiplier
    for steps in found:
        assert epsilon(steps.releases(10), 1e-5).value == pytest.approx(3.0, rel=0.01)
        assert epsilon(steps.releases(10), 1e-5).value <= 3.0
