"""`federated.cross_site` in whole runs, and at sites, which have to allow it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.flower.processes import SETTINGS as ALIKE
from tests.flower.processes import federation
from tests.problems import refuses
from tests.runs import run
from tests.sites import refused, setup, task

import fedlens
from fedlens.build.load import load
from fedlens.core.types import ClientResult, TaskSettings
from fedlens.federation.cross_site import CrossSiteEvaluation
from fedlens.flower.messages import Prepared
from fedlens.reports.html import render
from fedlens.reports.load import load_run
from fedlens.tracking.metrics import read_metrics
from fedlens.tracking.run_dir import RunDir

SETTINGS = (
    "federated.cross_site=true",
    "federated.num_rounds=1",
    "data.partition.scheme=iid",
    "data.partition.clients=3",
    "federated.fraction_fit=1",
    "runtime.name=in_process",
)
KINDS = ("own_model", "evaluate_given")


def saved(folder: Path) -> dict:
    return json.loads(RunDir(folder).cross_site.read_text())


def test_a_run_keeps_the_matrix_and_shows_it(tmp_path: Path) -> None:
    """Stopped in the middle of it and gone on with, as by a kill after the last round."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CrossSiteEvaluation, "_tried", lambda *_given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(tmp_path, *SETTINGS)
    (folder,) = tmp_path.iterdir()
    assert not RunDir(folder).cross_site.exists()
    assert not RunDir(folder).result.exists()
    final = (folder / "model" / "model.safetensors").read_bytes()
    fedlens.resume(folder, show=False)
    found = saved(folder)
    names = list(found["images"])
    assert len(names) == 3
    assert {owner: list(row) for owner, row in found["accuracy"].items()} == dict.fromkeys(names, names)
    assert list(found["shared"]) == names
    assert found["left_out"] == found["gaps"] == {}
    assert not (folder / "cross-site").exists(), "no model of a single client stays"
    assert (folder / "model" / "model.safetensors").read_bytes() == final
    page = render(load_run(folder))
    assert "From site to site" in page
    assert "The shared model after each client's own local training once more." in page


def test_models_of_their_own_are_those_of_the_round_that_was_reached(tmp_path: Path) -> None:
    """Stopped early: the learning rate of the last planned round would be next to nothing."""
    settings = ("personalization.name=finetune", "optimizer.schedule=cosine", "federated.num_rounds=20")
    found = run(tmp_path, *SETTINGS, *settings, "stopping.target_accuracy=0.05", "federated.evaluate_clients_every=1")
    lines = read_metrics(RunDir(found.folder).metrics)
    assert len(lines) < 20
    at_home = {one["client"]: one["accuracy"] for one in lines[-1]["clients"]["by_client"]}
    assert {owner: row[owner] for owner, row in saved(found.folder)["accuracy"].items()} == at_home


def test_the_model_that_is_given_back_is_the_shared_one(tmp_path: Path) -> None:
    """Clients of this process have used the same model; the last that was tried is a client's, with its own head."""
    fedper = "personalization.name=fedper"
    found, plain = run(tmp_path / "asked", *SETTINGS, fedper), run(tmp_path / "plain", *SETTINGS[1:], fedper)
    for (name, value), other in zip(found.model.state_dict().items(), plain.model.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


def test_a_client_may_be_called_like_the_shared_model(tmp_path: Path) -> None:
    found = run(tmp_path, *SETTINGS)
    kept = saved(found.folder)
    rows = {"shared model": {"a": 0.9}, "b": {"a": 0.25}}
    RunDir(found.folder).cross_site.write_text(json.dumps({**kept, "accuracy": rows, "shared": {"a": 0.5}}))
    page = render(load_run(found.folder))
    assert '["shared model","b","[shared model]"]' in page.replace(" ", "").replace("sharedmodel", "shared model")


def test_without_the_key_no_model_is_asked_for(tmp_path: Path) -> None:
    found = run(tmp_path, *SETTINGS[1:])
    assert not RunDir(found.folder).cross_site.exists()
    assert "From site to site" not in render(load_run(found.folder))


def test_the_page_names_who_is_missing_as_text(tmp_path: Path) -> None:
    found = run(tmp_path, *SETTINGS)
    kept = saved(found.folder)
    RunDir(found.folder).cross_site.write_text(json.dumps({**kept, "left_out": {"<b>x": "gone <i>away"}}))
    assert "Without &lt;b&gt;x: gone &lt;i&gt;away." in render(load_run(found.folder))


@pytest.mark.parametrize(
    "privacy", ["privacy.mode=central", "privacy.mode=local", "privacy.mode=example", "privacy.secure_aggregation=true"]
)
def test_it_does_not_go_with_what_keeps_models_apart(privacy: str) -> None:
    with refuses(("contradiction", "federated.cross_site")):
        load(None, ["federated.cross_site=true", privacy, "privacy.noise_multiplier=1"][: 3 - ("secure" in privacy)])


# -- sites -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("asked", "allowed"), [(True, False), (False, True), (False, False)])
def test_a_site_takes_part_only_if_the_run_asks_and_its_rules_allow_it(
    place, kind: str, asked: bool, allowed: bool
) -> None:
    site, told = place.site(*(["allow.cross_site=true"] if allowed else [])), setup(federated={"cross_site": asked})
    ready = site.prepare(told)
    assert isinstance(ready, Prepared), "it trains all the same"
    assert ready.cross_site == allowed
    assert refused(site.run(task(site, told, kind=kind), told)).startswith(
        "the task is part of a cross-site evaluation"
    )


def test_a_site_that_allows_it(place) -> None:
    site, told = place.site("allow.cross_site=true"), setup(federated={"cross_site": True})
    own = site.run(task(site, told, kind="own_model", settings=TaskSettings(0.05)), told)
    assert isinstance(own, ClientResult)
    tried = site.run(task(site, told, kind="evaluate_given", payload=own.payload), told)
    assert isinstance(tried, ClientResult)
    assert tried.report.metrics["accuracy"].weight == 6
    lacking = {name: value for name, value in own.payload.items() if not name.startswith("head")}
    assert refused(site.run(task(site, told, kind="evaluate_given", payload=lacking), told)) == (
        "the task lacks parts of the model"
    )


@pytest.mark.slow
def test_between_sites_of_which_one_does_not_allow_it(tmp_path: Path) -> None:
    """No model goes to or from it; what the others tell is what a simulation with their images measures."""
    with federation(tmp_path, clients=3) as place:
        settings = ("federated.cross_site=true", "federated.num_rounds=2", "federated.min_fit_clients=3")
        clients = [place.client(number, "allow.cross_site=true") for number in (1, 2)] + [place.client(3)]
        server = place.server(*settings)
        assert [program.ends() for program in (server, *clients)] == [0, 0, 0, 0], server.said
        found = saved(server.folder)
        pairs = {(owner, name) for owner, row in found["accuracy"].items() for name in row}
        assert pairs == {(owner, name) for owner in ("client1", "client2") for name in ("client1", "client2")}
        assert found["left_out"] == {"client3": "its site does not allow it (allow.cross_site in its site.yaml)"}
        sent = ["own_model", "evaluate_given"]
        boxes = [(client.state / "outbox.jsonl").read_text() for client in clients]
        assert [[any(f'"what": "{kind}' in line for line in box.splitlines()) for kind in sent] for box in boxes] == [
            [True, True],
            [True, True],
            [False, False],
        ]
        images = (f"data.path={place.data}", f"tracking.dir={tmp_path / 'local'}", "runtime.workers=1")
        local = saved(fedlens.run(None, *ALIKE, *images, *settings, show=False).folder)
        for owner, name in pairs:
            assert found["accuracy"][owner][name] == pytest.approx(local["accuracy"][owner][name], abs=1e-9)
