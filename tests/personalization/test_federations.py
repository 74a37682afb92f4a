"""Every personalisation over whole federations: it helps, it can be gone on with, and it is not kept in memory."""

from __future__ import annotations

import gc
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.helpers import infos, tiny_data, tiny_trainer
from tests.personalization.federations import SETTINGS, algorithm, beginning, federate, skewed

import fedlens
from fedlens.core.types import ClientFailure, ClientResult, Task, TaskSettings
from fedlens.federation.checkpoints import Checkpoints
from fedlens.federation.coordinator import RunPlan
from fedlens.federation.sampling import ClientSampler
from fedlens.personalization.apfl import Mixture
from fedlens.personalization.base import Personalization, personalizations
from fedlens.runtimes.in_process import InProcessRuntime
from fedlens.training.examples import Examples

PLAN = RunPlan(8, ClientSampler(1.0, 2, seed=0), lr=lambda _round: 0.05, evaluate_clients_every=8)
QUICK = (
    *("model.name=lenet", "personalization.name=fedper", "federated.num_rounds=1", "data.partition.scheme=iid"),
    "data.partition.clients=2",
    *("runtime.name=in_process", "tracking.tensorboard=false", "tracking.report=false"),
)
METHODS = [name for name in personalizations.names() if name != "none"]


def at_home(records) -> float:
    return float(np.mean([client.accuracy for client in records[-1].clients]))


@pytest.fixture(scope="module")
def one_model_for_all(tmp_path_factory) -> float:
    return at_home(federate(tmp_path_factory.mktemp("none"), "none", skewed(), PLAN)[1])


@pytest.mark.parametrize("name", METHODS)
def test_where_clients_differ_it_is_better_than_one_model(name: str, one_model_for_all: float, tmp_path) -> None:
    _, records = federate(tmp_path, name, skewed(), PLAN)
    assert at_home(records) > one_model_for_all + 0.2
    assert records[-1].train_loss < records[0].train_loss


@pytest.mark.parametrize("name", METHODS)
def test_what_is_measured_at_home(name: str, tmp_path) -> None:
    """The shared model beside the client's own, where there is a whole shared one; who never trained is told apart."""
    plan = replace(PLAN, num_rounds=1, sampler=ClientSampler(0.5, 2, seed=0), evaluate_clients_every=1)
    end, (record,) = federate(tmp_path, name, skewed(), plan)
    method = personalizations.get(name).factory
    whole = not method.keeps_parts()
    assert all((client.shared_accuracy is not None) == whole for client in record.clients)
    assert sum(client.trained for client in record.clients) == 3
    assert {client.client for client in record.clients if client.trained} == set(end.versions)
    stores = any(version is not None for version in end.versions.values())
    if whole and stores and method.initialize is Personalization.initialize:  # others change the model at once
        assert all(client.shared_accuracy == client.accuracy for client in record.clients if not client.trained)


@pytest.mark.parametrize("name", METHODS)
def test_gone_on_with_it_is_the_undisturbed_run(name: str, tmp_path) -> None:
    """Stopped after two rounds, when the clients are already one round ahead."""
    plan = replace(PLAN, num_rounds=4, sampler=ClientSampler(0.5, 2, seed=3), evaluate_clients_every=2)
    data = skewed(4)
    whole, undisturbed = federate(tmp_path / "whole", name, data, plan)
    federate(tmp_path / "cut", name, data, replace(plan, num_rounds=3))
    start = Checkpoints(tmp_path / "cut" / "checkpoints")._load(2)
    end, records = federate(tmp_path / "cut", name, data, plan, start)
    assert all(torch.equal(value, end.state.shared[key]) for key, value in whole.state.shared.items())
    assert end.versions == whole.versions
    assert [record.clients for record in records] == [record.clients for record in undisturbed[2:]]
    for found, expected in zip(records, undisturbed[2:], strict=True):
        assert found.validation.loss == expected.validation.loss
    for client, version in whole.versions.items():
        if version is not None:
            file = f"clients/{client}/{version:08d}.safetensors"
            kept, again = load_file(tmp_path / "whole" / file), load_file(tmp_path / "cut" / file)
            assert all(torch.equal(value, again[key]) for key, value in kept.items())


def test_validation_is_of_the_clients_own_models(tmp_path) -> None:
    """Where parts are private; of what each client keeps at its version, and not of what it kept before."""
    plan = replace(PLAN, num_rounds=3)
    data = skewed()
    end, records = federate(tmp_path, "fedper", data, plan)
    trainer = tiny_trainer(algorithm("fedper"), data, tmp_path / "clients", SETTINGS)
    right = 0
    for client in data.clients:
        trainer.load_client_model(
            Task(client.name, 3, "evaluate_shared", end.state.shared, TaskSettings(), end.versions[client.name])
        )
        right += int(np.trace(trainer.score(trainer.held_out(client.name, "val")).confusion))
    assert records[-1].validation.examples == 24
    assert records[-1].validation.accuracy == pytest.approx(right / 24)
    assert records[-1].validation.accuracy > 0.6, "a shared body with an untrained head would not do"


def test_clients_that_share_nothing_train_alone(tmp_path) -> None:
    """Rounds of a federation are then one client's own training: beside others, and by itself."""
    data, plan = skewed(3), replace(PLAN, num_rounds=3, sampler=ClientSampler(1.0, 1, seed=0), evaluate_clients_every=3)
    end, together = federate(tmp_path / "together", "local", data, plan)
    _, alone = federate(tmp_path / "alone", "local", replace(data, clients=data.clients[:1]), plan)
    assert end.state.shared == {}
    one, other = together[-1].clients[0], alone[-1].clients[0]
    assert (one.loss, one.accuracy) == (other.loss, other.accuracy)
    assert together[-1].train_loss < together[0].train_loss
    assert all((record.bytes_down, record.bytes_up) == (0, 0) for record in together)


def test_validation_of_a_whole_model_is_of_the_shared_one(tmp_path) -> None:
    data = skewed()
    end, records = federate(tmp_path / "ditto", "ditto", data, replace(PLAN, num_rounds=2))
    _, alone = federate(tmp_path / "none", "none", data, replace(PLAN, num_rounds=2))
    assert records[-1].validation.loss == alone[-1].validation.loss
    assert end.round == 2


def test_a_model_of_its_own_that_diverged_is_not_kept(tmp_path) -> None:
    data = skewed()
    trainer = tiny_trainer(
        replace(algorithm("ditto"), personalization=personalizations.get("ditto").build({"lam": 1e30})),
        data, tmp_path, replace(SETTINGS, epochs=3),
    )  # fmt: skip
    outcome = trainer.run(Task("client0", 1, "train", beginning(trainer).state.shared, TaskSettings(lr=0.1)))
    assert isinstance(outcome, ClientFailure)
    assert "the client's own model is not finite" in outcome.reason
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("name", ["none", "apfl"])
def test_the_share_of_training_that_waits_for_images(name: str, tmp_path, monkeypatch) -> None:
    """On a clock that stands still but for a second that each batch takes to make, all of the time is waited; what a
    personalization trains between two batches is not, here a second for each."""
    now = [0.0]

    def slowly(fetch, seconds: float):
        def act(*given):
            now[0] += seconds
            return fetch(*given)

        return act

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(Examples, "ready", slowly(Examples.ready, 1.0))
    monkeypatch.setattr(Mixture, "step", slowly(Mixture.step, 1.0))
    data = skewed()
    trainer = tiny_trainer(algorithm(name), data, tmp_path, SETTINGS)
    outcome = trainer.run(Task("client0", 1, "train", beginning(trainer).state.shared, TaskSettings(lr=0.1)))
    assert isinstance(outcome, ClientResult)
    share = outcome.report.metrics["data_share"]
    assert (share.total, share.value) == (3.0, {"none": 1.0, "apfl": 0.5}[name]), "12 images in batches of 4"


def live_bytes() -> int:
    """Of all tensors that this process holds."""
    gc.collect()
    plain = (torch.Tensor, torch.nn.Parameter)  # an export in this process has left others, without memory
    tensors = [each for each in gc.get_objects() if type(each) in plain]
    return sum({each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}.values())


@pytest.mark.parametrize("name", ["fedper", "ditto", "apfl"])
def test_200_clients_are_on_disk_and_not_in_memory(name: str, tmp_path) -> None:
    data = tiny_data(clients=200, per_client=4)
    trainer = tiny_trainer(algorithm(name), data, tmp_path, SETTINGS)
    runtime, shared = InProcessRuntime(infos(data), lambda: trainer), beginning(trainer).state.shared
    held = []
    for few in (data.clients[:20], data.clients[20:]):
        runtime.submit(Task(client.name, 1, "train", shared, TaskSettings(lr=0.1)) for client in few)
        assert sum(len(outcome.reports) for outcome in runtime.completed()) == len(few)
        held.append(live_bytes())
    files = list(tmp_path.rglob("*.safetensors"))
    assert len(files) == 200
    kept = sum(value.nbytes for value in load_file(files[0]).values())
    assert held[1] - held[0] < 5 * kept, "the other 180 left nothing in memory"
    runtime.submit([Task("client7", 1, "evaluate", shared, TaskSettings(lr=0.1), store_version=1)])
    (answer,) = runtime.completed()
    assert isinstance(answer, ClientResult)


def test_what_is_left_behind_is_nobodys(tmp_path) -> None:
    """In one process the clients' private parts pass through the model that is saved in the end."""
    run = fedlens.run(None, *QUICK, f"tracking.dir={tmp_path}", show=False)
    begun = fedlens.run(None, *QUICK, "optimizer.lr=1e-12", f"tracking.dir={tmp_path}", show=False)
    left, first = (load_file(one.folder / "model" / "model.safetensors") for one in (run, begun))
    assert not torch.equal(left["backbone.conv1.weight"], first["backbone.conv1.weight"])
    assert torch.equal(left["head.weight"], first["head.weight"])
