"""Bugs that void a claim of privacy, each planted into the real code: a check that passes without it fails with it.

The audits play the code of a run with σ such that half the noise, or twice the sensitivity, shows with few draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import CipherContext
from tests.privacy.test_release import sums
from torch import Tensor

from fedlens.build.load import load
from fedlens.build.privacy_audit import Audit, audit
from fedlens.core.types import State
from fedlens.federation.sampling import PoissonSampler
from fedlens.privacy import bounded, client_level, distributed, dp_sgd, local
from fedlens.privacy.adaptive_clip import AdaptiveClip
from fedlens.privacy.clipping import clipped
from fedlens.privacy.discrete import Integers, discrete_gaussian
from fedlens.privacy.ledger import Ledger, Spent
from fedlens.privacy.mechanisms import DPFTRL
from fedlens.privacy.noise import Normal, normal_from
from fedlens.privacy.protected import ProtectedUpdate
from fedlens.training.ghost_clipping import Layer, Tapped
from fedlens.training.image_gradients import ImageGradients
from fedlens.transforms.base import Encoded

Patch = pytest.MonkeyPatch
Plant = Callable[[Patch], None]

CENTRAL = "privacy.mode=central privacy.noise_multiplier=0.7 federated.fraction_fit=0.5"
CYCLIC = f"{CENTRAL} privacy.sampling=cyclic"
ADAPTIVE = f"{CYCLIC} privacy.clip=adaptive"
FTRL = f"{CYCLIC} privacy.mechanism=dp_ftrl"
SHARED = f"{CENTRAL} privacy.secure_aggregation=true"
LOCAL = "privacy.mode=local privacy.noise_multiplier=1.4"  # σ / 2 counts: 2 · clip apart
EXAMPLE = "privacy.mode=example privacy.noise_multiplier=0.7 federated.batch_size=100"  # 3 batches a client


def played(keys: str, draws: int = 300) -> Audit:
    return audit(load(None, ["model.name=lenet", *keys.split()]), 40, [300] * 40, draws)


def half(key: bytes) -> Normal:
    normal = normal_from(key)
    return lambda like: normal(like) / 2


def half_the_servers_noise(patch: Patch) -> None:
    patch.setattr(client_level, "normal_from", half)


def half_a_share(patch: Patch) -> None:
    patch.setattr(distributed, "discrete_gaussian", lambda *given: discrete_gaussian(*given) // 2)


def bits_without_a_share(patch: Patch) -> None:
    """The one number beside an update gets hardly any noise."""

    def drawn(stream: CipherContext, size: int, deviation: float) -> Integers:
        return discrete_gaussian(stream, size, deviation) // (8 if size == 1 else 1)

    patch.setattr(distributed, "discrete_gaussian", drawn)


def half_the_noise_of_a_step(patch: Patch) -> None:
    patch.setattr(dp_sgd, "normal_from", half)


def clip_of_each_tensor(patch: Patch) -> None:
    def each(state: State, clip: float) -> State:
        return {name: clipped({name: value}, clip)[name] for name, value in state.items()}

    patch.setattr(bounded, "clipped", each)
    patch.setattr(local, "clipped", each)


def clip_of_each_layer(patch: Patch) -> None:
    add = ImageGradients._add

    def adding(
        self: ImageGradients, views: dict[str, Tensor], rows: dict[str, Tensor], layers: Mapping[Tapped, Layer]
    ) -> None:
        for name, row in rows.items():
            add(self, views, {name: row}, {})
        for one, layer in layers.items():
            add(self, views, {}, {one: layer})

    patch.setattr(ImageGradients, "_add", adding)


def weight_of_the_client(patch: Patch) -> None:
    def encode(self: ProtectedUpdate, update, ctx) -> Encoded:
        return Encoded(replace(update, payload=self.protected(update.payload, ctx)))

    patch.setattr(ProtectedUpdate, "encode", encode)
    patch.setattr(bounded.Bound, "add", lambda self, result: (result,))


def noise_before_the_clip(patch: Patch) -> None:
    def protected(self: local.NoisyUpdate, payload: State, ctx) -> State:
        normal, spread = self.normal("noise"), self.noise_multiplier * self.clip
        return clipped({name: (value + spread * normal(value)).float() for name, value in payload.items()}, self.clip)

    patch.setattr(local.NoisyUpdate, "protected", protected)


def everybody_in_each_round(patch: Patch) -> None:
    patch.setattr(PoissonSampler, "choose", lambda self, number, clients, **how: list(clients))


def noise_for_one_participation(patch: Patch) -> None:
    patch.setattr(DPFTRL, "_scale", property(lambda self: self.noise_multiplier))


def bits_for_nothing(patch: Patch) -> None:
    """As if an adaptive clip's bits needed hardly any noise."""
    patch.setattr(AdaptiveClip, "bit_inflation", 0.2)
    patch.setattr(AdaptiveClip, "inflation", 1.0)


AUDITED = {
    "half the server's noise": (CYCLIC, half_the_servers_noise),
    "clip of each tensor": (CYCLIC, clip_of_each_tensor),
    "weight of the client": (CYCLIC, weight_of_the_client),
    "noise before the clip": (LOCAL, noise_before_the_clip),
}
"""name → configuration that is audited, and the bug."""

SLOWLY_AUDITED = {
    "half a client's share": (SHARED, 600, half_a_share),
    "an adaptive clip's bits without shares": (f"{SHARED} privacy.clip=adaptive", 600, bits_without_a_share),
    "half the server's noise, Poisson": (f"{CENTRAL} privacy.noise_multiplier=1", 10_000, half_the_servers_noise),
    "coins without effect": (f"{CENTRAL} federated.fraction_fit=0.2", 2000, everybody_in_each_round),
    "half a client's noise": (LOCAL, 1000, half_the_servers_noise),
    "an adaptive clip's bits for nothing": (ADAPTIVE, 1000, bits_for_nothing),
    "clip of each tensor, at the client": (LOCAL, 1000, clip_of_each_tensor),
    "noise for one participation": (FTRL, 1000, noise_for_one_participation),
    "half the noise of a local step": (EXAMPLE, 2000, half_the_noise_of_a_step),
    "clip of each layer of an image's gradient": (EXAMPLE, 2000, clip_of_each_layer),
}
"""The same with the number of draws."""

MINUTES = {
    "half the server's noise, Poisson",
    "half the noise of a local step",
    "clip of each layer of an image's gradient",
}
"""Of these, left to `make test-full`: quicker tests of coins and of DP-SGD notice such bugs, too."""


@pytest.mark.parametrize("bug", AUDITED)
def test_an_audit_contradicts_the_claim(bug: str, monkeypatch: Patch) -> None:
    keys, plant = AUDITED[bug]
    plant(monkeypatch)
    assert played(keys).contradicted


@pytest.mark.parametrize("keys", [CYCLIC, LOCAL])
def test_an_audit_does_not_contradict_the_code_as_it_is(keys: str) -> None:
    assert not played(keys).contradicted


@pytest.mark.parametrize(
    "bug",
    [pytest.param(bug, marks=pytest.mark.full if bug in MINUTES else pytest.mark.slow) for bug in SLOWLY_AUDITED],
)
def test_an_audit_of_more_draws_contradicts_the_claim(bug: str, monkeypatch: Patch) -> None:
    keys, draws, plant = SLOWLY_AUDITED[bug]
    assert not played(keys, draws).contradicted
    plant(monkeypatch)
    assert played(keys, draws).contradicted


def over_after_a_restart(folder: Path, budget: float) -> str | None:
    """Why round 2 may not be released once more, after a server was started again from the checkpoint of round 1."""
    folder.mkdir()
    private = sums(folder, sigma=2.0, budget=budget)
    for number in (1, 2):
        private.around(_Nothing(), number, {}).result()
    again = sums(folder, sigma=2.0, budget=budget)
    again.resume(1)
    return again.over(2)


class _Nothing:
    mergeable = True

    def result(self) -> None:
        return None


def test_a_budget_forgotten_on_resume_is_noticed(tmp_path: Path, monkeypatch: Patch) -> None:
    budget = sums(tmp_path, sigma=2.0).claim.epsilon(Spent(2)).value + 1e-6
    assert over_after_a_restart(tmp_path / "remembered", budget)
    monkeypatch.setattr(Ledger, "_read", lambda self, path: [])
    assert over_after_a_restart(tmp_path / "forgotten", budget) is None
