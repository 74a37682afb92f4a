"""Rounds of several stages: what a client keeps from one to the next, wherever the next one runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from tests.helpers import infos, tiny_data, tiny_trainer

from fedlens.core.client_store import ClientStore
from fedlens.core.types import ClientReport, ClientResult, Stage, State, Task
from fedlens.runtimes.local import LocalRuntime
from fedlens.strategies.fedavg import FedAvg
from fedlens.training.screening import Expected
from fedlens.training.settings import LocalSettings
from fedlens.training.tasks.base import TaskKind, task_kinds

DATA = tiny_data(clients=4)
FIRST, LAST = Stage(0, last=False), Stage(1, last=True)


@task_kinds.register("add_one", summary="for tests: adds one to a number that the client keeps for the round")
@dataclass(frozen=True)
class AddOne(TaskKind):
    staged = True

    def run(self, trainer, task, kept, stepped):
        own = trainer.stage_of(task)
        number = own.read().get("number", torch.zeros(())) + 1
        own.save({"number": number})
        return ClientResult(task.round, task.kind, ClientReport(task.client, 1.0, {}), {"number": number})

    def expected(self, task, client, view):
        return Expected(1, ())

    def record(self, result):
        return "added one"


def stage(runtime: LocalRuntime, stage: Stage, names: list[str], round_number: int = 1) -> dict[str, float]:
    payload: State = {}
    runtime.submit([Task(name, round_number, "add_one", payload, stage=stage) for name in names])
    return {one.client: float(one.payload["number"]) for one in runtime.completed()}


@pytest.fixture
def runtime(tmp_path):
    make = partial(tiny_trainer, FedAvg(), DATA, tmp_path, LocalSettings(batch_size=4))
    place = LocalRuntime(infos(DATA), make, workers=2, threads_per_worker=1, start_method="fork")
    yield place
    place.close()


def test_the_next_stage_finds_what_was_kept_in_whichever_process_it_runs(runtime, tmp_path) -> None:
    assert stage(runtime, FIRST, ["client0", "client1"]) == {"client0": 1, "client1": 1}
    assert stage(runtime, LAST, ["client1", "client2", "client0"]) == {"client0": 2, "client1": 2, "client2": 1}
    assert not [*tmp_path.rglob("stages/*")], "after the last stage nothing is left"


@pytest.mark.parametrize(
    ("again", "round_number"),
    [(FIRST, 1), (replace(LAST, attempt=1), 1), (LAST, 2)],
    ids=["begun anew", "repeated", "another round"],
)
def test_what_was_kept_is_of_one_attempt_of_one_round(runtime, again: Stage, round_number: int) -> None:
    stage(runtime, FIRST, ["client0"])
    assert stage(runtime, again, ["client0"], round_number) == {"client0": 1}


def test_training_ends_what_a_stage_that_was_missed_has_left(tmp_path) -> None:
    trainer = tiny_trainer(FedAvg(), DATA, tmp_path, LocalSettings(batch_size=4))
    trainer.run(Task("client0", 1, "add_one", {}, stage=FIRST))
    assert [*tmp_path.rglob("stages/*")]
    trainer.run(Task("client0", 2, "train", trainer.model.state()))
    assert not [*tmp_path.rglob("stages/*")]


def test_stages_and_versions_are_apart(tmp_path) -> None:
    store = ClientStore(tmp_path)
    store.save("client0", 3, {"kept": torch.ones(1)})
    store.stage("client0", 4, FIRST).save({"number": torch.ones(())})
    assert store.read("client0", 3)["kept"] == 1
    store.begin_stage("client0", 4, FIRST)
    assert store.stage("client0", 4, LAST).read() == {}
    assert store.read("client0", 3)["kept"] == 1
