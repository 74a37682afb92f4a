"""The model of one client of a run on disk: from the command line and from Python, and why it cannot be had."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import fedlens
from fedlens.cli.main import app
from fedlens.core.files import read_json, write_json
from fedlens.errors import ModelError
from fedlens.federation.checkpoints import Checkpoints
from fedlens.tracking.metrics import read_metrics
from fedlens.tracking.run_dir import RunDir

pytestmark = pytest.mark.slow

WITHOUT_MODEL = (
    "federated.num_rounds=2",
    "federated.fraction_fit=0.3",
    "federated.evaluate_clients_every=1",
    "data.partition.scheme=dirichlet",
    "data.partition.clients=6",
    "optimizer.lr=0.05",
    "runtime.workers=2",
    "tracking.tensorboard=false",
)
SETTINGS = ("model.name=lenet", *WITHOUT_MODEL)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, fedlens.api.Run]:
    base = tmp_path_factory.mktemp("logs")
    return {
        name: fedlens.run(None, *SETTINGS, f"personalization.name={name}", f"tracking.dir={base}", show=False)
        for name in ("fedper", "ditto", "finetune")
    }


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (28, 28, 3), dtype=np.uint8))
    return path


def sampled(run) -> tuple[str, str]:
    """A client that has trained, and one that has not."""
    checkpoint = Checkpoints(RunDir(run.folder).checkpoints).latest(print)
    clients = list(read_json(RunDir(run.folder).partition)["clients"])
    (trained, *_), (never, *_) = checkpoint.versions, [name for name in clients if name not in checkpoint.versions]
    return trained, never


def predict(run, photo: Path, *options: str):
    return CliRunner().invoke(app, ["predict", str(run.folder), str(photo), "--json", *options])


@pytest.mark.parametrize("name", ["fedper", "ditto", "finetune"])
def test_it_is_the_model_that_was_measured_at_home(runs, name: str) -> None:
    """Loss and accuracy of every client's model on its own test images are those of the last round's records."""
    from fedlens.build.experiment import build_experiment
    from fedlens.build.inputs import inputs_of
    from fedlens.training.evaluation import evaluate

    run = runs[name]
    experiment = build_experiment(run.config, run.folder, lambda _: lambda *_: None, model=None, data=None)
    rows = {client.name: client.test for client in experiment.train_data.clients}
    measured = {
        client["client"]: client for client in read_metrics(RunDir(run.folder).metrics)[-1]["clients"]["by_client"]
    }
    for client in sampled(run):
        found = evaluate(run.model_of(client), inputs_of(experiment, rows[client]), 10)
        assert found.loss == pytest.approx(measured[client]["loss"], rel=1e-5)
        assert found.accuracy == measured[client]["accuracy"]


def test_private_parts_are_the_clients_own(runs) -> None:
    run = runs["fedper"]
    trained, never = sampled(run)
    one, other = run.model_of(trained), run.model_of(never)
    assert torch.equal(one.backbone.conv1.weight, other.backbone.conv1.weight)
    assert not torch.equal(one.head.weight, other.head.weight)


def test_predictions_of_a_client(runs, photo: Path) -> None:
    trained, never = sampled(runs["fedper"])
    one = predict(runs["fedper"], photo, "--client", trained)
    assert one.exit_code == 0, one.output
    assert one.stderr == ""
    other = predict(runs["fedper"], photo, "--client", never)
    assert (
        f"note: {never} was never sampled: its model starts from the shared one, with its private parts" in other.stderr
    )
    assert json.loads(one.stdout)["top"] != json.loads(other.stdout)["top"]


def test_one_who_was_never_sampled_uses_the_shared_model(runs, photo: Path) -> None:
    _, never = sampled(runs["ditto"])
    shared, own = predict(runs["ditto"], photo), predict(runs["ditto"], photo, "--client", never)
    assert own.stderr.strip().endswith("its model starts from the shared one")
    assert json.loads(own.stdout) == json.loads(shared.stdout)


def refused(run, photo: Path, *options: str) -> str:
    result = predict(run, photo, *options)
    assert result.exit_code == 1, result.output
    (line,) = result.stderr.splitlines()
    return line


def test_a_model_with_private_parts_is_nobodys_without_a_client(runs, photo: Path) -> None:
    assert re.search(
        r"parts of this model stay with the clients; choose one with --client: client1, .*client6$",
        refused(runs["fedper"], photo),
    )
    assert predict(runs["ditto"], photo).exit_code == 0


def test_no_such_client(runs, photo: Path) -> None:
    line = refused(runs["fedper"], photo, "--client", "clint3")
    assert "client = 'clint3': no client of" in line
    assert "Did you mean client3? Known: client1, client2, client3, client4, client5, client6" in line


@pytest.fixture
def copied(runs, tmp_path: Path):
    shutil.copytree(runs["fedper"].folder, tmp_path / "run")
    return fedlens.load_run(tmp_path / "run")


def test_clients_on_other_machines(copied, photo: Path) -> None:
    RunDir(copied.folder).superlink.mkdir()
    assert "is on their own machines and never comes here" in refused(copied, photo, "--client", "client1")


def test_a_run_without_a_checkpoint(copied, photo: Path) -> None:
    run = RunDir(copied.folder)
    shutil.rmtree(run.checkpoints)
    assert "its checkpoints were removed" in refused(copied, photo, "--client", "client1")
    run.result.unlink()
    assert "no round has finished" in refused(copied, photo, "--client", "client1")


def test_images_that_are_others(copied, photo: Path) -> None:
    write_json(RunDir(copied.folder).fingerprint, "another")
    assert "the images are not those of this run" in refused(copied, photo, "--client", "client1")


def test_clients_that_hold_other_rows(copied, photo: Path) -> None:
    partition = RunDir(copied.folder).partition
    write_json(partition, {**read_json(partition), "division": "other rows"})
    assert "divided among the clients in another way" in refused(copied, photo, "--client", "client1")


def test_what_a_client_kept_is_gone(copied, photo: Path) -> None:
    trained, _ = sampled(copied)
    shutil.rmtree(copied.folder / "clients" / trained)
    assert f"client '{trained}' has no private state of version" in refused(copied, photo, "--client", trained)


def test_data_from_python_is_given_again(tmp_path: Path) -> None:
    from torch.utils.data import TensorDataset

    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.rand(120, 1, 16, 16, generator=generator), torch.arange(120) % 3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 3))
    run = fedlens.run(
        None, *WITHOUT_MODEL, "personalization.name=ditto", f"tracking.dir={tmp_path}", "tracking.report=false",
        data=data, model=model, show=False,
    )  # fmt: skip
    with pytest.raises(ModelError, match=r"given from Python; give them again: .*model_of\(client, data=…\)"):
        run.model_of("client1", model=model)
    assert run.model_of("client1", model=model, data=data)(torch.rand(2, 1, 16, 16)).shape == (2, 3)


def test_what_a_partly_private_run_says(runs) -> None:
    """No test accuracy anywhere; the best model is chosen by the clients' validation."""
    run = runs["fedper"]
    lines = read_metrics(RunDir(run.folder).metrics)
    assert all(line["test"] is None for line in lines)
    assert all(line["validation"]["examples"] > 0 for line in lines)
    assert (run.folder / "best" / "model.json").exists()
    (row,) = fedlens.compare(run.folder).to_dict("records")
    assert row["strategy"] == "fedavg + fedper"
    assert row["accuracy"] is None or np.isnan(row["accuracy"])
    page = re.sub(r"<[^>]+>", " ", run.report.read_text(encoding="utf-8"))
    assert re.search(r"%\s+client accuracy, mean over clients", page)
    assert not re.search(r"%\s+test accuracy", page)
    ditto = read_metrics(RunDir(runs["ditto"].folder).metrics)[-1]
    assert ditto["clients"]["shared_accuracy"] is not None
    assert 'id="shared-against-personal"' in runs["ditto"].report.read_text(encoding="utf-8")


def test_a_target_is_reached_by_the_clients_own_models(tmp_path: Path) -> None:
    run = fedlens.run(
        None, *SETTINGS, "personalization.name=fedrep", "data.partition.scheme=shard", "federated.fraction_fit=1",
        "personalization.head_epochs=2", "stopping.target_accuracy=0.3", "federated.num_rounds=6",
        f"tracking.dir={tmp_path}", "tracking.report=false", show=False,
    )  # fmt: skip
    lines = read_metrics(RunDir(run.folder).metrics)
    assert len(lines) < 6
    assert lines[-1]["validation"]["accuracy"] >= 0.3
    assert "reached the target 0.3" in read_json(RunDir(run.folder).result)["reason"]
