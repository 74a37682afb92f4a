"""Adaptive clipping follows Andrew et al. 2021, Algorithm 1 and Theorem 1."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import fedlens
from fedlens.aggregation.mean import WeightedMean
from fedlens.build.load import load
from fedlens.core.types import ClientReport, ClientResult
from fedlens.errors import ConfigError, ProtocolError
from fedlens.privacy.adaptive_clip import BELOW, CLIP, AdaptiveClip
from fedlens.privacy.base import Federation
from fedlens.privacy.bounded import BoundedUpdate
from fedlens.privacy.central import Central
from fedlens.privacy.ledger import Ledger
from fedlens.privacy.mechanisms import Cyclic, Gaussian
from fedlens.privacy.noise import insecure_key, normal_from
from fedlens.privacy.release import KEPT, Claim, PrivateSum
from fedlens.strategies.base import ClientUpdate
from fedlens.tracking.metrics import read_metrics
from fedlens.transforms.base import EncodingContext, ReceivingContext, TransformChain

CHAIN = TransformChain((BoundedUpdate(0.1, adaptive=True),))
FORMS = {"w": torch.empty(4, device="meta")}


def sums(tmp_path, sigma: float, cohort: float = 40.0, quantile: float = 0.5, rate: float = 0.2) -> PrivateSum:
    adaptive = AdaptiveClip(quantile, rate, sigma, cohort)
    normal = lambda number: normal_from(insecure_key(1, number))  # noqa: E731
    claim = Claim(Gaussian(sigma, Cyclic(1)), 1e-5, None, 0.1, 400, cohort, spread=1, normal=normal, adaptive=adaptive)
    return PrivateSum(claim, Ledger(tmp_path / "privacy.jsonl", claim.terms), FORMS)


def played(private: PrivateSum, number: int, kept: dict, norms: list[float]):
    """A round of clients whose updates have those norms: what was released, and what is kept."""
    told = CHAIN.told(kept)
    inner = CHAIN.around(WeightedMean(), ReceivingContext(number, frozenset(FORMS), kept=kept, told=told))
    aggregator = private.around(inner, number, kept)
    for norm in norms:
        ctx = EncodingContext(number, "a", frozenset(FORMS), {}, 0, 0, told=told)
        sent = CHAIN.encode(ClientUpdate({"w": torch.tensor([norm, 0, 0, 0])}, 1.0), {}, ctx).update
        aggregator.add(ClientResult(number, "train", ClientReport("a", 1.0, {}), sent.payload, sent.extra))
    return aggregator.result(), aggregator.kept()


def test_one_step_is_that_of_the_paper(tmp_path):
    """Line 13 of Algorithm 1, C · exp(−η_C (b̃ − γ)), where one of four updates is within the clip of 0.1: b̃ = 1/4."""
    total, kept = played(sums(tmp_path, 0.0, cohort=4.0), 1, {}, [0.05, 0.2, 0.3, 0.4])
    assert float(kept[f"{KEPT}/{CLIP}"]) == pytest.approx(0.1 * math.exp(-0.2 * (1 / 4 - 1 / 2)))
    assert total.delta["w"][0].item() == pytest.approx((0.05 + 3 * 0.1) / 4, rel=1e-5)
    assert not total.extra, "what was sent beside the update is not for the strategy"
    assert total.measures["privacy/clip"] == 0.1


def test_the_next_round_uses_the_next_clip(tmp_path):
    private = sums(tmp_path, 0.0, cohort=1.0)
    _, kept = played(private, 1, {}, [0.5])
    total, _ = played(private, 2, kept, [0.5])
    assert total.delta["w"][0].item() == pytest.approx(0.1 * math.exp(0.1), rel=1e-5)


def test_the_clip_finds_the_quantile(tmp_path):
    """Norms are spread evenly over 1 to 3, so 80 % are below 2.6; with noise, σ = 1, on 50 clients' bits."""
    private, kept = sums(tmp_path, 1.0, cohort=50.0, quantile=0.8, rate=0.5), {}
    norms, clips = list(np.linspace(1, 3, 50)), []
    for number in range(1, 41):
        total, kept = played(private, number, kept, norms)
        clips.append(total.measures["privacy/clip"])
    assert np.mean(clips[-20:]) == pytest.approx(2.6, abs=0.15)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.9])
def test_updates_and_bits_together_cost_what_a_fixed_clip_does(sigma):
    """Theorem 1: σ⁻² = z_Δ⁻² + (2 σ_b)⁻², with σ_b = m / 20."""
    adaptive = AdaptiveClip(0.5, 0.2, sigma, cohort=40.0)
    z, bits = sigma * adaptive.inflation, sigma * adaptive.bit_inflation
    assert bits == pytest.approx(2.0)
    assert z**-2 + (2 * bits) ** -2 == pytest.approx(sigma**-2)


def test_the_noise_is_that_of_the_theorem(tmp_path):
    """Rounds without an answer are noise alone: on the update z_Δ · clip / m, on the mean of bits 1 / 20. Half of it
    would have a quarter of the variance."""
    private = sums(tmp_path, 2.0)
    z, updates, steps = (2.0**-2 - 4.0**-2) ** -0.5, [], []
    for number in range(1, 201):
        total, kept = played(private, number, {}, [])
        updates.append(total.delta["w"])
        steps.append(math.log(float(kept[f"{KEPT}/{CLIP}"]) / 0.1) / -0.2)
    assert float(torch.cat(updates).var()) == pytest.approx((z * 0.1 / 40) ** 2, rel=5 * (2 / 800) ** 0.5)
    assert np.var(steps) == pytest.approx(1 / 20**2, rel=5 * (2 / 200) ** 0.5)


def test_a_lying_client_moves_the_sum_of_bits_by_one_half(tmp_path):
    private = sums(tmp_path, 0.0, cohort=1.0)
    inner = CHAIN.around(WeightedMean(), ReceivingContext(1, frozenset(FORMS)))
    aggregator = private.around(inner, 1, {})
    lie = {BELOW: torch.tensor([-1e6])}
    aggregator.add(ClientResult(1, "train", ClientReport("a", 1.0, {}), {"w": torch.zeros(4)}, lie))
    aggregator.result()
    assert float(aggregator.kept()[f"{KEPT}/{CLIP}"]) == pytest.approx(0.1 * math.exp(0.1))


@pytest.mark.parametrize("clip", [math.nan, -1.0, 0.0, math.inf])
def test_a_client_takes_no_clip_that_is_none(clip):
    ctx = EncodingContext(1, "a", frozenset(FORMS), {}, 0, 0, told={f"{KEPT}/{CLIP}": torch.tensor(clip)})
    with pytest.raises(ProtocolError, match="the server told an adaptive clip of"):
        CHAIN.encode(ClientUpdate({"w": torch.ones(4)}, 1.0), {}, ctx)


def test_too_few_clients_are_refused():
    """σ_b = m / 20 and z_Δ exists for 2 σ_b > σ: more than 10 σ clients."""
    mode = Central(clip="adaptive", noise_multiplier=1.5)
    assert mode.claim(Federation(population=160, rounds=1, fraction=0.1)).adaptive
    with pytest.raises(
        ConfigError, match=r"^privacy.clip = 'adaptive'.* takes more than 15 clients in a round.* not 15"
    ):
        mode.claim(Federation(population=150, rounds=1, fraction=0.1))


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"first_clip": 0.5}, "first_clip = 0.5: counts with privacy.clip=adaptive alone"),
        ({"clip": "adaptive", "mechanism": "dp_ftrl", "sampling": "cyclic"}, "clip = 'adaptive': noise that spans"),
    ],
)
def test_keys_that_exclude_each_other_are_named(keys, line):
    assert Central(**keys).contradiction().startswith(line)


def test_a_run_with_it_resumes_to_the_same_model(tmp_path):
    """The clip is in the checkpoint, and workers are told it."""
    work = (
        *("model.name=lenet", "data.source=sample", "data.partition.clients=25", "federated.fraction_fit=1"),
        *("data.partition.scheme=iid", "data.validation=0", "data.client_test=0", "federated.evaluate_every=0"),
        *("privacy.mode=central", "privacy.clip=adaptive", "privacy.noise_multiplier=1", "privacy.insecure_seed=1"),
        *("privacy.delta=1e-3", "tracking.report=false", "tracking.tensorboard=false", f"tracking.dir={tmp_path}"),
    )
    whole = fedlens.run(None, *work, "federated.num_rounds=3", "tracking.name=whole", show=False)
    clips = [line["measures"]["privacy/clip"] for line in read_metrics(whole.folder / "metrics.jsonl")]
    assert clips[0] == 0.1
    assert len(set(clips)) == 3
    part = fedlens.run(None, *work, "federated.num_rounds=2", "tracking.name=part", show=False)
    rest = fedlens.resume(part.folder, "federated.num_rounds=3", show=False)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, rest.model.state_dict()[name])


def test_a_step_of_any_size_leaves_a_clip():
    adaptive = AdaptiveClip(0.5, 10.0, 0.0, 1.0)
    assert adaptive.following(1.0, {BELOW: torch.tensor([-1e6])}) == 1e9
    assert adaptive.following(1.0, {BELOW: torch.tensor([1e6])}) == 1e-9


def test_what_a_clip_may_be_is_told():
    with pytest.raises(ConfigError, match=r"privacy\.clip = 'adaptiv': must be a number above 0 or adaptive"):
        load(None, ["privacy.mode=central", "privacy.clip=adaptiv"])
