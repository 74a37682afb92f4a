"""Cross-site evaluation: whose model is tried where, and what stays out."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from tests.federation.test_survey import Watched, stands
from tests.helpers import CPU, infos, tiny_data, tiny_model, tiny_trainer
from tests.personalization.federations import SETTINGS, algorithm, federate, skewed

from fedlens.core.types import ClientFailure, ClientResult, Task, TaskSettings
from fedlens.core.words import by_reason
from fedlens.errors import FedLensError, ProtocolError
from fedlens.federation import cross_site
from fedlens.federation.coordinator import RunPlan
from fedlens.federation.cross_site import CrossSite, CrossSiteEvaluation, sentence
from fedlens.federation.sampling import ClientSampler
from fedlens.flower.expectation import OWN_METRICS
from fedlens.models.base import Preprocessing, prepare
from fedlens.personalization.base import personalizations
from fedlens.runtimes.in_process import InProcessRuntime
from fedlens.strategies.fedavg import FedAvg
from fedlens.training.algorithm import Algorithm
from fedlens.training.evaluation import evaluate
from fedlens.training.examples import Examples
from fedlens.training.flat import FlatModel
from fedlens.training.screening import check
from fedlens.training.settings import LocalSettings
from fedlens.training.tasks.base import ServerView, kind_of

LR = 0.1
PREPARE = partial(prepare, how=Preprocessing(8, 1))
PLAN = RunPlan(4, ClientSampler(1.0, 2, seed=0), lr=lambda _round: 0.05)


@pytest.fixture
def data():
    return tiny_data(clients=4)


@pytest.fixture
def runtime(data, tmp_path):
    return Watched(infos(data), lambda: tiny_trainer(FedAvg(), data, tmp_path / "clients", LocalSettings(batch_size=4)))


@pytest.fixture
def notes() -> list[str]:
    return []


def evaluation(runtime, notes, folder, **changes) -> CrossSiteEvaluation:
    given = {
        "own": False,
        "shared": True,
        "lr": lambda _round: LR,
        "except_for": frozenset(),
        "spool": folder / "spool",
    }
    return CrossSiteEvaluation(runtime, **{**given, **changes}, note=notes.append)


def on(data, state, rows) -> float:
    model = FlatModel(tiny_model(), CPU)
    model.load(state)
    return evaluate(model.module, Examples(data, rows, PREPARE, CPU), 3).accuracy


def test_each_clients_model_is_tried_on_each_clients_images(data, runtime, notes, tmp_path) -> None:
    """Against models that were trained here, from the shared one, on each client's images alone."""
    shared = FlatModel(tiny_model(seed=3), CPU).state()
    found = evaluation(runtime, notes, tmp_path)(stands(shared))
    trainer = tiny_trainer(FedAvg(), data, tmp_path / "again", LocalSettings(batch_size=4))
    for owner in data.clients:
        own = trainer.run(Task(owner.name, 1, "own_model", shared, TaskSettings(LR))).payload
        assert not torch.equal(own["head.weight"], shared["head.weight"])
        assert found.accuracy[owner.name] == {other.name: on(data, own, other.test) for other in data.clients}
    assert found.shared == {client.name: on(data, shared, client.test) for client in data.clients}
    assert found.images == {client.name: 2 for client in data.clients}
    assert found.left_out == {}
    assert not (tmp_path / "spool").exists()
    assert [line.partition(":")[0] for line in notes] == ["clients' own models"]


def test_a_given_model_is_used_as_it_is(data, tmp_path) -> None:
    """Neither what the client trained last, nor what it keeps, has a part in it."""
    trainer = tiny_trainer(algorithm("fedbn"), data, tmp_path, SETTINGS)
    given = FlatModel(tiny_model(seed=9), CPU).state()
    trainer.run(Task("client1", 1, "own_model", given, TaskSettings(LR)))
    result = trainer.run(Task("client1", 1, "evaluate_given", given))
    assert result.report.metrics["accuracy"].value == on(data, given, data.clients[1].test)
    missing = {name: value for name, value in given.items() if name != "head.bias"}
    with pytest.raises(KeyError, match=r"head\.bias"):
        trainer.run(Task("client1", 1, "evaluate_given", missing))


@pytest.mark.parametrize("name", [name for name in personalizations.names() if name != "none"])
def test_with_a_personalization_it_is_the_model_that_the_client_uses(name: str, notes, tmp_path) -> None:
    data = skewed(3)
    end, records = federate(tmp_path, name, data, replace(PLAN, evaluate_clients_every=4))
    trainer = tiny_trainer(algorithm(name), data, tmp_path / "clients", SETTINGS)
    runtime = InProcessRuntime(infos(data), lambda: trainer)
    found = evaluation(runtime, notes, tmp_path, own=True, shared=False, lr=lambda _round: 0.05)(end)
    at_home = {client.client: client.accuracy for client in records[-1].clients}
    assert {owner: row[owner] for owner, row in found.accuracy.items()} == at_home
    assert found.shared == {}
    assert trainer.has_own_model


def test_clients_that_never_trained_or_attack_or_whose_rules_forbid_it(data, runtime, notes, tmp_path) -> None:
    known = infos(data)
    runtime.clients = lambda at_least=0: [*known[:3], replace(known[3], cross_site=False)]
    run = stands(FlatModel(tiny_model(), CPU).state(), versions={"client0": None, "client2": None, "client3": None})
    found = evaluation(runtime, notes, tmp_path, own=True, except_for=frozenset({"client2"}))(run)
    assert found.left_out == {
        "client1": "it has never trained",
        "client2": "it attacks",
        "client3": "its site does not allow it (allow.cross_site in its site.yaml)",
    }
    assert list(found.accuracy) == list(found.images) == ["client0"]
    assert set(runtime.asked) == {"client0"}, "no model goes where it may not be, or to somebody who gives none"
    assert notes[0].startswith("cross-site evaluation without client1: it has never trained; client2: it attacks; ")
    assert notes[1].startswith("cross-site evaluation: fewer than two clients")


def test_who_gives_no_model_gets_none(data, runtime, notes, tmp_path) -> None:
    runtime.silent = frozenset({"client1"})
    found = evaluation(runtime, notes, tmp_path)(stands(FlatModel(tiny_model(), CPU).state()))
    assert list(found.accuracy) == list(found.images) == ["client0", "client2", "client3"]
    assert all("client1" not in row for row in found.accuracy.values())
    assert found.left_out == {"client1": "no answer"}
    assert runtime.asked.count("client1") == 1


def test_who_is_away_is_named(data, runtime, notes, tmp_path) -> None:
    known = infos(data)
    runtime.clients = lambda at_least=0: known[:3]
    found = evaluation(runtime, notes, tmp_path)(stands(FlatModel(tiny_model(), CPU).state()))
    assert found.left_out == {"client3": "it is away"}


def test_one_answer_that_is_lost_is_a_gap(data, notes, tmp_path) -> None:
    """The client takes part all the same; and a model that is no use is nobody's fault who tries it."""

    class Forgetful(Watched):
        def completed(self, timeout=None):
            for outcome in super().completed(timeout):
                lost = outcome.client == "client1" and outcome.kind == "evaluate_given" and len(self.asked) == 8
                yield ClientFailure("client1", outcome.round, "no answer") if lost else outcome

    runtime = Forgetful(infos(data), lambda: tiny_trainer(FedAvg(), data, tmp_path / "c", LocalSettings(batch_size=4)))
    found = evaluation(runtime, notes, tmp_path)(stands(FlatModel(tiny_model(), CPU).state()))
    assert (found.left_out, found.gaps) == ({}, {"client1": "no answer"})
    assert list(found.accuracy["client0"]) == ["client0", "client2", "client3"]
    assert list(found.accuracy["client1"]) == ["client0", "client1", "client2", "client3"]


def test_a_model_of_huge_numbers_has_an_accuracy(data, tmp_path) -> None:
    """Its loss would be no number, and an honest client's answer would be refused."""
    trainer = tiny_trainer(FedAvg(), data, tmp_path, LocalSettings(batch_size=4))
    model = FlatModel(tiny_model(), CPU)
    view = ServerView(model, model.state(), Algorithm(FedAvg()), LocalSettings(), 3, OWN_METRICS)
    huge = {name: torch.full_like(value, 3e38) for name, value in model.state().items()}
    task = Task("client0", 1, "evaluate_given", huge)
    result = trainer.run(task)
    assert check(result, task, kind_of("evaluate_given").expected(task, infos(data)[0], view)) == result
    assert set(result.report.metrics) == {"accuracy"}


def test_a_full_disk_is_one_line(data, runtime, notes, tmp_path, monkeypatch) -> None:
    def full(*_given) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cross_site, "save_file", full)
    with pytest.raises(FedLensError, match=r"cannot be kept there .* make room, and go on with `fedlens resume`"):
        evaluation(runtime, notes, tmp_path)(stands(FlatModel(tiny_model(), CPU).state()))
    assert not (tmp_path / "spool").exists()


def test_one_without_test_images_gives_its_model_all_the_same(data, notes, tmp_path) -> None:
    bare = replace(data, clients=(replace(data.clients[0], test=data.clients[0].test[:0]), *data.clients[1:]))
    runtime = Watched(infos(bare), lambda: tiny_trainer(FedAvg(), bare, tmp_path, LocalSettings()))
    found = evaluation(runtime, notes, tmp_path)(stands(FlatModel(tiny_model(), CPU).state()))
    assert list(found.accuracy) == ["client0", "client1", "client2", "client3"]
    assert all("client0" not in row for row in found.accuracy.values())


def test_of_many_clients_some_take_part_those_that_have_trained_first(
    data, runtime, notes, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(cross_site, "MOST_CLIENTS", 2)
    found = evaluation(runtime, notes, tmp_path)(stands(FlatModel(tiny_model(), CPU).state(), {"client3": None}))
    assert list(found.accuracy) == ["client3", "client0"]
    assert found.left_out == dict.fromkeys(("client1", "client2"), "only 2 take part")


def test_what_a_killed_attempt_has_left_is_not_used(data, runtime, notes, tmp_path) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "0.safetensors").write_bytes(b"torn")
    runtime.silent = frozenset({"client0"})
    found = evaluation(runtime, notes, tmp_path)(stands(FlatModel(tiny_model(), CPU).state()))
    assert list(found.accuracy) == ["client1", "client2", "client3"]


def test_a_model_that_diverges_is_named(data, tmp_path) -> None:
    trainer = tiny_trainer(FedAvg(), data, tmp_path, LocalSettings(batch_size=4, epochs=5))
    shared = FlatModel(tiny_model(), CPU).state()
    outcome = trainer.run(Task("client0", 1, "own_model", shared, TaskSettings(1e30)))
    assert isinstance(outcome, ClientFailure)
    assert "diverged" in outcome.reason


def test_answers_are_held_against_what_an_honest_client_gives(data, tmp_path) -> None:
    trainer = tiny_trainer(FedAvg(), data, tmp_path, LocalSettings(batch_size=4))
    model, info = FlatModel(tiny_model(), CPU), infos(data)[0]
    view = ServerView(model, model.state(), Algorithm(FedAvg()), LocalSettings(), 3, OWN_METRICS)
    for kind in ("own_model", "evaluate_given"):
        task = Task("client0", 1, kind, model.state(), TaskSettings(LR))
        expected = kind_of(kind).expected(task, info, view)
        result = trainer.run(task)
        assert isinstance(result, ClientResult)
        assert check(result, task, expected) == result
        more = replace(result, report=replace(result.report, weight=1000.0))
        with pytest.raises(ProtocolError, match="but the site has reported"):
            check(more, task, expected)
    task = Task("client0", 1, "own_model", model.state(), TaskSettings(LR))
    given = trainer.run(task)
    for value, line in (
        (torch.zeros(2), "instead of"),
        (torch.full_like(given.payload["head.bias"], np.nan), "not finite"),
    ):
        with pytest.raises(ProtocolError, match=line):
            wrong = replace(given, payload={**given.payload, "head.bias": value})
            check(wrong, task, kind_of("own_model").expected(task, info, view))


def test_many_reasons_are_told_together() -> None:
    gone = {f"client{number}": "it has never trained" for number in range(9)}
    assert by_reason({"a": "it attacks", **gone}) == (
        "a: it attacks; client0, client1 and 7 more: it has never trained"
    )


def test_the_sentence() -> None:
    """At home (0.8 + 0.6) / 2; elsewhere (0.2 + 0.4) / 2."""
    rows = {"a": {"a": 0.8, "b": 0.2}, "b": {"a": 0.4, "b": 0.6}}
    said = sentence(CrossSite(rows, {}, {"a": 5, "b": 5}, {}, {}))
    assert said.startswith("clients' own models: 70.0 % on their own test images, 30.0 % on the others'")
