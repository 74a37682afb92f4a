"""The server's side over a grid in memory: sites that come, go, answer late, answer rubbish or do not answer."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from tests.flower.fakes import silent
from tests.flower.stage import DATA, SETTINGS, SETUP, SHARED, Stage, of, view
from tests.helpers import CPU, combined, tiny_model, tiny_trainer

from fedlens.aggregation.mean import WeightedMean
from fedlens.core.types import ClientResult, Task, TaskSettings
from fedlens.errors import ConnectionFailed
from fedlens.flower.expectation import OWN_METRICS, SHARED_METRICS, expectation
from fedlens.personalization.base import personalizations
from fedlens.runtimes.in_process import InProcessRuntime
from fedlens.strategies.fedavg import FedAvg
from fedlens.training.algorithm import Algorithm
from fedlens.training.flat import FlatModel

pytestmark = pytest.mark.usefixtures("quick")


# -- a round -----------------------------------------------------------------------------------------------------------


def test_two_sites_train_a_round(stage, tmp_path) -> None:
    stage.join(1)
    stage.join(0)
    assert stage.open(2) == ["client0", "client1"]
    outcomes = list(stage.train("client0", "client1"))
    assert of(outcomes, ClientResult) == ["client0", "client1"]

    alone = InProcessRuntime([], partial(tiny_trainer, FedAvg(), DATA, tmp_path / "alone", SETTINGS))
    alone.submit([Task(name, 1, "train", SHARED, TaskSettings(lr=0.1)) for name in ("client0", "client1")])
    expected = combined(alone.completed(), WeightedMean()).delta
    found = combined(iter(outcomes), WeightedMean()).delta
    for name, value in expected.items():
        assert (value.abs() > 0).any()
        assert torch.allclose(found[name], value, atol=1e-6), name


def test_who_is_there(stage) -> None:
    stage.join(0)
    stage.open(1)
    (info,) = stage.runtime.clients()
    assert (info.name, info.partition, info.examples, info.device) == ("client0", 0, 12, "cpu")
    assert info.counts["test"] == tuple(DATA.class_counts(DATA.clients[0].test).tolist())
    assert "client0 is here: 12 training images of 3 classes, cpu" in stage.notes
    assert stage.link.tended > 0


def test_it_waits_until_enough_are_there(stage) -> None:
    stage.join(0)

    def second(script, incoming, parts):
        stage.join(1)  # comes while the first gets ready
        return script.honest(incoming, parts)

    stage.superlink.nodes.clear()
    stage.join(0, prepare=second)
    assert stage.open(2) == ["client0", "client1"]
    assert "waiting for clients: 0 of 2 ready" in stage.notes
    assert "waiting for clients: 1 of 2 ready" in stage.notes


def test_descriptions_come_before_there_is_a_setup(stage) -> None:
    stage.join(1)
    stage.join(0)
    assert [site.name for site in stage.runtime.described(2)] == ["client0", "client1"]
    assert stage.heard(0) == ["describe"]
    assert stage.open(2) == ["client0", "client1"]
    assert stage.heard(0) == ["describe", "prepare"]


def test_evaluations_come_back(stage) -> None:
    stage.join(0)
    stage.open(1)
    payload = {"client": "client0", "round": 1, "payload": SHARED}
    stage.runtime.submit([Task(kind="evaluate", **payload)])
    (scored,) = stage.runtime.completed()
    assert scored.report.weight == 2, scored
    stage.runtime.submit([Task(kind="evaluate_shared", settings=TaskSettings(splits=("test", "val")), **payload)])
    (counted,) = stage.runtime.completed()
    assert {split: int(value.sum()) for split, value in counted.payload.items()} == {"test": 2, "val": 2}


def test_nothing_to_do_is_done_at_once(stage) -> None:
    stage.runtime.submit([])
    assert list(stage.runtime.completed()) == []


def test_answers_are_handed_on_one_by_one(stage) -> None:
    """So that one update at most is in memory beside the sum."""
    for index in range(3):
        stage.join(index)
    stage.open(3)
    outcomes = stage.train("client0", "client1", "client2")
    assert isinstance(next(outcomes), ClientResult)
    assert len(stage.superlink.replies) == 2
    assert len(list(outcomes)) == 2


# -- losing the SuperLink ----------------------------------------------------------------------------------------------


def test_tasks_are_sent_again_over_a_new_superlink(tmp_path) -> None:
    stage = Stage(tmp_path, rejoin=30.0, come_back=(0, 1))

    def ends(script, incoming, parts):
        stage.link.ended = True

    stage.join(0, train=ends)
    stage.join(1, train=silent)
    stage.open(2)
    outcomes = list(stage.train("client0", "client1"))
    assert of(outcomes, ClientResult) == ["client0", "client1"]
    assert stage.heard(0) == ["describe", "prepare", "train"]
    assert any("lost Flower's SuperLink (it has ended): starting it again" in note for note in stage.notes)
    assert of(stage.train("client0", round_number=2), ClientResult) == ["client0"]


@pytest.mark.parametrize("when", ["before the tasks", "after the tasks"])
def test_a_superlink_that_cannot_be_reached_is_replaced(tmp_path, when: str) -> None:
    stage = Stage(tmp_path, rejoin=30.0, come_back=(0,))
    stage.join(0, train=silent)
    stage.open(1)
    stage.superlink.down = when == "before the tasks"
    outcomes = stage.train("client0")
    stage.superlink.down = True
    assert of(outcomes, ClientResult) == ["client0"]
    assert any("lost Flower's SuperLink (Connection refused)" in note for note in stage.notes)


def test_without_another_superlink_the_run_stops(stage) -> None:
    stage.join(0, train=silent)
    stage.open(1)
    outcomes = stage.train("client0")
    stage.superlink.down = True
    with pytest.raises(ConnectionFailed, match="there is no other"):
        next(outcomes)


# -- the end -----------------------------------------------------------------------------------------------------------


def test_everybody_is_told_of_the_end(stage) -> None:
    sites = [stage.join(index) for index in range(2)]
    stage.open(2)
    stage.runtime.finish("all 3 rounds are done")
    assert [(site.farewell.kind, site.farewell.text) for site in sites] == [("finish", "all 3 rounds are done")] * 2


def test_the_end_is_no_error_when_nobody_hears_it(stage) -> None:
    site = stage.join(0)
    assert stage.open(1) == ["client0"]
    stage.superlink.down = True
    stage.runtime.finish("done")
    stage.runtime.close()
    stage.runtime.close()
    assert site.farewell is None
    assert [client.name for client in stage.runtime.known()] == ["client0"]  # for the report


# -- what stays with a site --------------------------------------------------------------------------------------------


WITH_PARTS = [one.name for one in personalizations.entries() if one.factory.keeps_parts()]


@pytest.mark.parametrize("name", [*WITH_PARTS, "ditto"])
def test_private_parts_are_in_no_message(stage, name: str) -> None:
    """Neither as a name in a record, nor as bytes in any part of any message, over training and evaluation."""
    algorithm = Algorithm(FedAvg(), personalizations.get(name).build({}))
    folders = {f"client{index}": stage.folder / str(index) for index in (0, 1)}
    trainers = {client: tiny_trainer(algorithm, DATA, folder, SETTINGS) for client, folder in folders.items()}
    for index, trainer in enumerate(trainers.values()):
        stage.join(index, site=stage.site(index, trainer=trainer))
    trainer = trainers["client0"]
    private = trainer.model.names - trainer.shared
    shared = {key: value for key, value in SHARED.items() if key in trainer.shared}
    at_home = OWN_METRICS + (SHARED_METRICS if trainer.shows_shared else ())
    stage.runtime.open(SETUP, expectation(view(trainer.model, shared, at_home)))
    stage.runtime.clients(2)
    for kind, store_version in (("train", None), ("evaluate", 1), ("evaluate_shared", 1)):
        settings = TaskSettings(lr=0.1, splits=("val",))
        stage.runtime.submit([Task(client, 1, kind, shared, settings, store_version) for client in trainers])
        outcomes = list(stage.runtime.completed())
        assert of(outcomes, ClientResult) == ["client0", "client1"], outcomes
        for answer in outcomes:
            assert not private & (answer.payload.keys() | answer.extra.keys())
    everything = b"".join(stage.superlink.parts.values())
    assert all(key.encode() in everything for key in shared)
    assert not any(key.encode() in everything for key in private)
    for folder in folders.values():
        (file,) = folder.rglob("*.safetensors")
        for key, value in load_file(file).items():
            assert value.numpy().tobytes() not in everything, key


def test_both_accuracies_come_from_the_sites(stage) -> None:
    """A personalisation measures the shared model beside the client's own; an answer without it is not used."""
    algorithm = Algorithm(FedAvg(), personalizations.get("ditto").build({}))
    stage.join(0, site=stage.site(0, trainer=tiny_trainer(algorithm, DATA, stage.folder / "0", SETTINGS)))
    stage.join(1)
    resident = FlatModel(tiny_model(), CPU)
    stage.runtime.open(SETUP, expectation(view(resident, SHARED, OWN_METRICS + SHARED_METRICS)))
    stage.runtime.clients(2)
    stage.runtime.submit([Task(name, 1, "evaluate", SHARED, TaskSettings(lr=0.1)) for name in ("client0", "client1")])
    outcomes = {outcome.client: outcome for outcome in stage.runtime.completed()}
    metrics = outcomes["client0"].report.metrics
    assert metrics["shared.accuracy"] == metrics["accuracy"], "it has never trained"
    assert "lacks the metric shared.loss, shared.accuracy" in outcomes["client1"].reason
