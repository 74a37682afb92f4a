"""Securely aggregated rounds of a server and its sites, over Flower's grid."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from tests.flower.fakes import altering, silent
from tests.flower.stage import DATA, SETTINGS, SHARED, Stage
from tests.helpers import CPU, combined, infos, plain_mean, tiny_model, tiny_trainer

from fedlens.aggregation.mean import WeightedMean
from fedlens.core.types import State, Task, TaskSettings
from fedlens.federation.checkpoints import Checkpoint
from fedlens.federation.rounds.base import PhaseTimer, RoundSetup
from fedlens.federation.rounds.secure import SecureAggregation, SecureRounds
from fedlens.federation.sampling import ClientSampler
from fedlens.flower.codec import arrays, tensors
from fedlens.flower.internals.parts import message_of
from fedlens.flower.messages import HEAD
from fedlens.runtimes.in_process import InProcessRuntime
from fedlens.strategies.base import ServerState
from fedlens.strategies.fedavg import FedAvg
from fedlens.training.flat import FlatModel

pytestmark = pytest.mark.usefixtures("quick")

STAGES = ("secure_keys", "secure_shares", "secure_train", "secure_survivors", "secure_unmask")
NAMES = [f"client{index}" for index in range(4)]


def collected(stage: Stage, odd=MappingProxyType({})):
    """One round of four sites. `odd`: site → kind of message → what it does then."""
    for index in range(4):
        stage.join(index, **odd.get(index, {}))
    stage.open(4)
    setup = RoundSetup(
        num_rounds=1,
        sampler=ClientSampler(1.0, 4, seed=0),
        lr=lambda _round: 0.1,
        quorum=1,
        runtime=stage.runtime,
        strategy=FedAvg(),
        trainable=FlatModel(tiny_model(), CPU).trainable,
        make_aggregator=plain_mean,
        note=stage.notes.append,
    )
    return SecureRounds(setup, SecureAggregation()).collect(Checkpoint(0, ServerState(SHARED)), 1, PhaseTimer())


def mean_of(folder: Path, names: list[str]):
    """The plain weighted mean of these clients' updates."""
    trainer = tiny_trainer(FedAvg(), DATA, folder / "plain", SETTINGS)

    runtime = InProcessRuntime(infos(DATA), lambda: trainer)
    runtime.submit([Task(name, 1, "train", SHARED, TaskSettings(lr=0.1)) for name in names])
    return combined(runtime.completed(), WeightedMean())


def alike(found, expected) -> bool:
    return all(torch.allclose(value, expected.delta[name], rtol=0, atol=1e-6) for name, value in found.delta.items())


def test_sites_give_the_mean_of_their_updates(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    found = collected(stage)
    assert found.total is not None and found.total.count == 4 and not found.failures
    assert alike(found.total, mean_of(tmp_path, NAMES))
    assert stage.heard(2)[-5:] == list(STAGES)


@pytest.mark.parametrize("kind", STAGES)
def test_a_site_that_falls_silent_is_recovered_from(tmp_path: Path, kind: str) -> None:
    stage = Stage(tmp_path, deadline=0.5)
    found = collected(stage, {1: {kind: silent}})
    counted = NAMES if kind in STAGES[3:] else [name for name in NAMES if name != "client1"]
    assert found.total is not None and found.total.count == len(counted)
    assert alike(found.total, mean_of(tmp_path, counted))
    assert [failure.client for failure in found.failures] == ["client1"]


def short(records) -> None:
    """Without its last row, or its last byte."""
    (payload,) = [name for name in records if name == "payload"]
    held = tensors(records[payload])
    records[payload] = arrays({name: value[:-1] if value.dim() else value for name, value in held.items()})


@pytest.mark.parametrize("kind", STAGES)
def test_a_message_of_another_form_is_its_sites_failure(tmp_path: Path, kind: str) -> None:
    def change(message):
        short(message.content)
        return message

    found = collected(Stage(tmp_path), {1: {kind: altering(change)}})
    (failure,) = found.failures
    assert failure.client == "client1"
    assert "its result was not used" in failure.reason and " instead of " in failure.reason


def test_an_answer_of_before_does_not_fit(tmp_path: Path) -> None:
    """Two sites are silent in the first attempt; in the second, a third one sends the keys that it had in the first."""
    kept: list[State] = []

    def again(message):
        kept.append(tensors(message.content["payload"]))
        message.content["payload"] = arrays(kept[0])
        return message

    def later(script, incoming, parts):
        _, _, attempt = message_of(incoming, dict(parts)).content[HEAD]["stage"]
        return script.honest(incoming, parts) if attempt else None

    odd = {1: {"secure_keys": altering(again)}, 2: {"secure_shares": later}, 3: {"secure_shares": later}}
    found = collected(Stage(tmp_path, deadline=0.3), odd)
    assert found.total is not None and found.total.count == 3
    assert [(one.client, one.reason) for one in found.failures][2:] == [
        ("client1", "its result was not used: a forged signature of the public keys of client1")
    ]
