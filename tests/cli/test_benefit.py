"""`fedlens benefit` with real, tiny runs: its figures are those that the runs wrote down themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.commands import command, refused_in_one_line
from tests.photos import photos

from fedlens.build.load import load
from fedlens.cli.benefit import measured
from fedlens.sweeps.baselines import trios
from fedlens.tracking.metrics import read_metrics
from fedlens.tracking.observer import Silent
from fedlens.tracking.run_dir import find_runs

KEYS = (
    *("model.name=lenet", "federated.num_rounds=2", "data.client_test=0.3", "data.test=0.2", "optimizer.lr=0.05"),
    *("runtime.workers=1", "tracking.tensorboard=false", "tracking.report=false"),
)
BENEFIT = f"benefit data.path=data {' '.join(KEYS)} --seeds 1"


@pytest.fixture(autouse=True)
def photographs_of_two_clients(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, client in enumerate(("north", "south")):
        photos(Path("data", client), each=8, seed=100 * seed)


def test_its_figures_are_those_of_the_runs() -> None:
    result = command(BENEFIT)
    assert result.exit_code == 0, result.output
    assert "3 runs of 2 rounds" in result.stdout
    assert "Federating, against training alone: " in result.stdout
    assert "Across sites" in Path("logs/benefit/benefit.html").read_text()

    last = {
        load(run.config).personalization.name: read_metrics(run.metrics)[-1] for run in find_runs(Path("logs/benefit"))
    }
    (found,) = measured(trios(None, ["data.path=data", *KEYS], 1, "benefit", Silent().progress))
    for name, model in (("local", "local"), ("finetune", "fine-tuned")):
        theirs = {client["client"]: client["accuracy"] for client in last[name]["clients"]["by_client"]}
        assert found.own[model] == pytest.approx(theirs)
    shared = {client["client"]: client["shared_accuracy"] for client in last["finetune"]["clients"]["by_client"]}
    assert found.own["federation"] == pytest.approx(shared)
    assert found.everywhere["federation"] == pytest.approx(last["finetune"]["test"]["accuracy"])
    assert found.everywhere["central"] == pytest.approx(last["none"]["test"]["accuracy"])
    assert found.crossed["north"]["north"] == found.own["local"]["north"]
    assert list(found.crossed) == ["north", "south", "federation", "central"]

    again = command(BENEFIT)
    assert "all 3 runs are done" in again.stdout
    assert again.stdout.splitlines()[-4:] == result.stdout.splitlines()[-4:]


def test_a_federation_of_one_is_refused() -> None:
    refused_in_one_line(
        f"{BENEFIT} data.partition.scheme=iid data.partition.clients=1", "data.partition", "has one client"
    )
    refused_in_one_line(f"{BENEFIT} data.client_test=0", "data.client_test = 0", "data.client_test=0.2")
    refused_in_one_line(f"{BENEFIT} data.clients=3", "data.clients", "unknown key")
    assert not Path("logs").exists()
