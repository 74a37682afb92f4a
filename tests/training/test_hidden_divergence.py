"""Where the server is trusted with nothing, nobody learns whether training diverged at a client: one image can decide
that."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.helpers import tiny_trainer
from tests.personalization.federations import algorithm, beginning, skewed

from fedlens.core.client_store import ClientStore
from fedlens.core.types import ClientFailure, ClientResult, Task, TaskSettings
from fedlens.privacy.accounting import Release, epsilon
from fedlens.privacy.bounded import BoundedUpdate
from fedlens.privacy.distributed import SharedNoiseUpdate
from fedlens.privacy.local import SENSITIVITY, NoisyUpdate
from fedlens.privacy.noise import insecure_key, normal_from
from fedlens.training.client import ClientTrainer
from fedlens.training.optimizers.sgd import SGD
from fedlens.training.sections import OptimizerSection
from fedlens.training.settings import LocalSettings

CLIP, RATE, TOO_FAST = 0.5, 0.05, 1e30
SETTINGS = LocalSettings(batch_size=4, optimizer=SGD(momentum=0.9), training=OptimizerSection(keep=True))


def noisy(noise_multiplier: float = 0.0, budget: float | None = None) -> NoisyUpdate:
    return NoisyUpdate(CLIP, noise_multiplier, 1e-5, budget, lambda *place: normal_from(insecure_key(0, *place)))


def trainer(folder, privacy=noisy(), personalization: str = "ditto") -> ClientTrainer:  # noqa: B008
    return tiny_trainer(replace(algorithm(personalization), privacy=privacy), skewed(), folder, SETTINGS)


def trained(at: ClientTrainer, lr: float, number: int = 1, version: int | None = None) -> ClientResult | ClientFailure:
    return at.run(Task("client0", number, "train", beginning(at).state.shared, TaskSettings(lr=lr), version))


@pytest.mark.parametrize("personalization", ["none", "ditto", "fedper"])
def test_a_diverged_client_sends_what_others_send(personalization: str, tmp_path) -> None:
    """Around an update of zeros, with the same noise: σ · clip · the same draws."""
    diverged = trained(trainer(tmp_path / "a", noisy(2.0), personalization), TOO_FAST)
    other = trained(trainer(tmp_path / "b", noisy(2.0), personalization), RATE)
    assert isinstance(diverged, ClientResult)
    assert isinstance(other, ClientResult)
    assert diverged.payload.keys() == other.payload.keys()
    normal = normal_from(insecure_key(0, "noise", 1, "client0"))
    for name in sorted(diverged.payload):
        assert torch.equal(diverged.payload[name], (2.0 * CLIP * normal(other.payload[name])).float())
    reports = [
        (one.report.metrics.keys(), one.report.weight, one.report.stored, one.report.metrics["bytes_up"])
        for one in (diverged, other)
    ]
    assert reports[0] == reports[1]
    ledgers = [(tmp_path / name / "client0" / "privacy.jsonl").read_text() for name in "ab"]
    assert ledgers[0] == ledgers[1]


def test_a_diverged_client_masks_an_update_of_zeros_where_clients_share_the_noise(tmp_path) -> None:
    shared = SharedNoiseUpdate(CLIP, noise_multiplier=1.0, key=lambda *place: insecure_key(0, *place))
    diverged = trained(trainer(tmp_path, shared), TOO_FAST)
    assert isinstance(diverged, ClientResult)
    assert not any(bool(value.any()) for value in diverged.payload.values())


def test_it_keeps_what_it_kept_before(tmp_path) -> None:
    """SGD changes its momentum in place: what is stored again must not be the diverged one."""
    at, store = trainer(tmp_path), ClientStore(tmp_path)
    trained(at, RATE)
    before = store.read("client0", 1)
    assert any(name.startswith("optimizer/") for name in before)
    assert isinstance(trained(at, TOO_FAST, 2, 1), ClientResult)
    after = store.read("client0", 2)
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    third = trained(at, RATE, 3, 2)
    assert isinstance(third, ClientResult)
    assert any(value.any() for value in third.payload.values())


def test_where_the_server_is_trusted_it_is_a_failure(tmp_path) -> None:
    failed = trained(trainer(tmp_path, BoundedUpdate(CLIP)), TOO_FAST)
    assert isinstance(failed, ClientFailure)
    assert "not finite" in failed.reason


def test_a_diverged_client_spends_its_budget_as_others_do(tmp_path) -> None:
    once = epsilon({Release(20.0 / SENSITIVITY): 1}, 1e-5).value
    at = trainer(tmp_path, noisy(20.0, budget=once * 1.01))
    outcomes = [trained(at, TOO_FAST, number, number - 1 or None) for number in (1, 2)]
    assert isinstance(outcomes[0], ClientResult)
    assert isinstance(outcomes[1], ClientFailure)
    assert "budget is spent" in outcomes[1].reason
