"""Whole runs whose clients train by DP-SGD, as users start them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.problems import refuses, refuses_with
from tests.runs import Clothes, recorded, run, separable
from tests.test_private_runs import spent

import fedlens
from fedlens.build.load import load
from fedlens.errors import Code
from fedlens.privacy.base import LEAVES
from fedlens.tracking.metrics import read_metrics

PRIVATE = (
    "runtime.name=in_process",
    "privacy.mode=example",
    "federated.fraction_fit=1",
    "federated.batch_size=1000",
    "federated.num_rounds=2",
    "privacy.insecure_seed=3",
)


def unequal(tmp_path: Path, *overrides: str) -> fedlens.Run:
    """Clients with different numbers of images, and so with different ε."""
    skewed = ("data.partition.scheme=quantity", "data.partition.clients=4", "data.partition.alpha=0.5")
    small = ("federated.batch_size=50", "data.validation=0", "data.client_test=0", "federated.evaluate_clients_every=0")
    return run(tmp_path, *PRIVATE, *skewed, *small, *overrides, model=Clothes(), data=separable(1200))


@pytest.mark.parametrize("runtime", ["in_process", "local"])
def test_every_client_has_a_ledger_of_its_own(tmp_path: Path, runtime: str):
    done = run(tmp_path, *PRIVATE, f"runtime.name={runtime}")
    assert 0 < spent(done)[0] < spent(done)[1]
    ledgers = sorted((done.folder / "clients").glob("*/privacy.jsonl"))
    assert len(ledgers) == 10
    for file in ledgers:
        first, *lines = map(json.loads, file.read_text().splitlines())
        assert first["mechanism"] == {"mechanism": "Steps", "noise_multiplier": 1.0, "steps": 1, "probability": 1.0}
        assert lines == [{"round": 1}, {"round": 2}]


def test_it_learns(tmp_path: Path):
    """Bright columns tell the class: chance is a third. 60 steps with hardly any noise in the mean of 100 gradients."""
    done = run(
        tmp_path, *PRIVATE, "federated.batch_size=100", "federated.num_rounds=3", "federated.local_epochs=5",
        "optimizer.lr=0.5", "data.partition.clients=3", model=Clothes(), data=separable(1200), test=separable(300, 1),
    )  # fmt: skip
    assert read_metrics(done.folder / "metrics.jsonl")[-1]["test"]["accuracy"] > 0.8


def test_nothing_but_a_noisy_update_of_weight_1_leaves_a_client(tmp_path: Path):
    with recorded() as seen:
        run(tmp_path, *PRIVATE)
    assert len(seen) == 20
    for result in seen:
        assert result.kind == "train"
        assert set(result.report.metrics) == set(LEAVES)
        assert result.report.weight == 1.0
        assert not result.extra


def test_a_client_that_has_spent_its_budget_is_left_out_and_the_run_ends_when_all_have(tmp_path: Path):
    free = unequal(tmp_path / "free", "federated.num_rounds=1")
    one = spent(free)[0]
    done = unequal(tmp_path / "bound", "federated.num_rounds=50", f"privacy.budget={one * 1.05}")
    lines = read_metrics(done.folder / "metrics.jsonl")
    out = [{failure["client"] for failure in line["failures"]} for line in lines]
    assert not out[0]
    assert len(out[-1]) in (1, 2, 3)
    assert len(lines) < 50
    reasons = {failure["reason"] for line in lines for failure in line["failures"]}
    assert reasons == {
        f"this client's privacy budget is spent (privacy.budget = {one * 1.05:g}): it takes no further part"
    }
    assert max(spent(done)) <= one * 1.05
    assert "no client that was asked has any privacy budget left" in (done.folder / "result.json").read_text()


@pytest.mark.parametrize(
    ("key", "overrides"),
    [
        ("strategy.name", "strategy.name=moon"),
        ("strategy.name", "strategy.name=qfedavg"),
        ("personalization.name", "personalization.name=ditto"),
        ("personalization.name", "personalization.name=fedala"),
        ("aggregation.weights", "aggregation.weights=examples"),
        ("schedule.name", "schedule.name=fedbuff"),
        ("optimizer.mixup", "optimizer.mixup=0.2"),
        ("memory.precision", "memory.precision=fp16"),
        ("memory.gradient_checkpointing", "memory.gradient_checkpointing=true"),
        ("stopping.patience", "stopping.patience=3"),
    ],
)
def test_what_mixes_images_or_is_not_accounted_for_is_refused(key: str, overrides: str):
    with refuses(("contradiction", key)) as caught:
        load(None, ["privacy.mode=example", *overrides.split()])
    assert "privacy.mode=example" in str(caught.value)


def test_rules_that_need_single_updates_work(tmp_path: Path):
    """Each update hides its images by itself."""
    assert len(spent(run(tmp_path, *PRIVATE, "aggregation.name=median", "tracking.updates=true"))) == 2


def test_fedprox_keeps_its_proximal_term(tmp_path: Path):
    """It is added after clipping and noise: with a large μ the model stays where it was."""

    def moved(folder: str, *overrides: str) -> float:
        many = ("federated.local_epochs=20", "optimizer.momentum=0", "data.partition.clients=2")
        done = run(tmp_path / folder, *PRIVATE, *many, *overrides, model=Clothes(), data=separable(200))
        return read_metrics(done.folder / "metrics.jsonl")[-1]["update_norm"]

    assert moved("prox", "strategy.name=fedprox", "strategy.mu=15") < 0.8 * moved("avg")


@pytest.mark.parametrize(
    ("code", "overrides", "line"),
    [
        ("contradiction", "privacy.budget=0.01", "privacy.budget = 0.01: one round alone costs ε = "),
        ("incompatible", "model.name=resnet18", "model.norm = 'batch': its layer "),
    ],
)
def test_what_the_images_and_the_model_do_not_allow(tmp_path: Path, code: Code, overrides: str, line: str):
    with refuses_with(code, line):
        run(tmp_path, *PRIVATE, *overrides.split())


def test_a_delta_as_large_as_one_image_is_doubted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    quiet = ("tracking.tensorboard=false", "tracking.report=false")
    fedlens.run(
        None,
        *PRIVATE,
        *quiet,
        "model.name=lenet",
        "privacy.delta=0.01",
        "privacy.insecure_seed=null",
        f"tracking.dir={tmp_path}",
    )
    said = capsys.readouterr().out
    assert "training images a mechanism that shows one of them whole could have that δ" in said
    assert "for single images, the largest of the clients" in said
