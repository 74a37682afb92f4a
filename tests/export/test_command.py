"""`fedlens export`: which model, what is refused, and the model card."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import yaml
from tests import fake_runs, runs
from tests.exports import by_torchscript, card, export, exported, kept, pixels, refused
from torch import nn

import fedlens
from fedlens.export.base import Trained
from fedlens.export.formats.torchscript import TorchScript
from fedlens.inference.personal import clients_of
from fedlens.models.artefact import load_model, save_model
from fedlens.models.base import ModelBuilder, ModelRequest, Preprocessing, Recognizer, models
from fedlens.models.description import ModelDescription
from fedlens.tracking.run_dir import RunDir

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # that it is deprecated is known


def test_a_clients_own_model(fedper: Path, tmp_path: Path) -> None:
    one, other, _ = clients_of(RunDir(fedper))
    for client in (one, other):
        said = exported(fedper, "torchscript", tmp_path / client, "--client", client)
        assert f"test images of {client}\n" in said
    images = pixels(2, 28, 28, 1)
    model = fedlens.load_run(fedper).model_of(one)
    wanted = model(model.prepare(torch.from_numpy(images))).detach()
    torch.testing.assert_close(by_torchscript(tmp_path / one, images), wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(by_torchscript(tmp_path / other, images), wanted, atol=1e-3)
    text = card(tmp_path / one)
    assert f"This is the model that the client {one} uses itself." in text
    assert other not in text


def test_without_a_client_there_is_no_whole_model(fedper: Path, tmp_path: Path) -> None:
    line = refused(fedper, "onnx", tmp_path / "out")
    assert "parts of this model stay with the clients; choose one with --client: client1, client2, client3" in line
    line = refused(fedper, "onnx", tmp_path / "out", "--client", "clint2")
    assert "Did you mean client2?" in line
    run = shutil.copytree(fedper, tmp_path / "run")
    (run / "superlink").mkdir()
    assert "stay on the sites' own machines" in refused(run, "onnx", tmp_path / "out")


# what is refused


def test_what_is_no_finished_run(lenet: Path, tmp_path: Path) -> None:
    assert "is no run" in refused(tmp_path, "onnx", tmp_path / "out", status=2)
    assert "does not exist" in refused(tmp_path / "none", "onnx", tmp_path / "out", status=2)
    stopped = fake_runs.write_run(tmp_path / "logs", rounds=3).path
    (stopped / "checkpoints" / "round-00000003").mkdir()
    line = refused(stopped, "onnx", tmp_path / "out")
    assert line == (
        f"{stopped} has not finished (3 of 6 rounds are done): go on with it first, fedlens resume {stopped}"
    )


def test_a_run_without_a_best_model_or_any(lenet: Path, tmp_path: Path) -> None:
    run = shutil.copytree(lenet, tmp_path / "run")
    shutil.rmtree(run / "best")
    assert "keeps no best model" in refused(run, "onnx", tmp_path / "out", "--best")
    line = refused(run, "onnx", tmp_path / "out", "--best", "--client", "client1", status=2)
    assert line.startswith("--best: ")
    shutil.rmtree(run / "model")
    assert "no saved model there" in refused(run, "onnx", tmp_path / "out")


def test_a_module_of_ones_own_is_exported_from_python(tmp_path: Path) -> None:
    run = runs.run(
        tmp_path / "logs", "federated.num_rounds=1", "data.partition.clients=2", "federated.fraction_fit=1",
        model=runs.Clothes(), data=runs.separable(60),
    ).folder  # fmt: skip
    assert "trained a module of your own" in refused(run, "safetensors", tmp_path / "out")


def test_pictures_from_python_are_told(tmp_path: Path) -> None:
    run = runs.run(
        tmp_path / "logs", "federated.num_rounds=1", "data.partition.clients=2", "federated.fraction_fit=1",
        data=runs.numbers(60),
    ).folder  # fmt: skip
    result = export(run, "safetensors", tmp_path / "out")
    assert result.exit_code == 0
    assert (
        "note: tried on random pictures, not on test images: the run's images were given from Python" in result.stderr
    )
    assert "which is wrong if the run was given float tensors" in result.stderr


def test_an_unknown_format(lenet: Path, tmp_path: Path) -> None:
    line = refused(lenet, "onxx", tmp_path / "out", status=2)
    assert line == "unknown format 'onxx'. Did you mean 'onnx'? Known: onnx, safetensors, timm, torchscript"


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_names_the_extra(
    lenet: Path, tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    line = refused(lenet, "onnx", tmp_path / "out", status=2)
    assert line == f"--format onnx needs the package {package}, of the extra: pip install 'fedlens[export]'"


def test_where_it_cannot_be_written(lenet: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "an export is a folder" in refused(lenet, "onnx", tmp_path / "file", status=2)
    assert "name it without .onnx" in refused(lenet, "onnx", tmp_path / "model.onnx", status=2)
    assert "no such folder" in refused(lenet, "onnx", tmp_path / "none" / "out", status=2)
    (tmp_path / "diary").mkdir()
    (tmp_path / "diary" / "notes.txt").touch()
    for force in ((), ("--force",)):
        line = refused(lenet, "onnx", tmp_path / "diary", *force, status=2)
        assert "there are other files in it (notes.txt); give a new folder" in line


def test_force_replaces_an_earlier_export(lenet: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    exported(lenet, "torchscript", tmp_path / "out")  # an empty folder is taken
    line = refused(lenet, "safetensors", tmp_path / "out", status=2)
    assert line.endswith("there is an export already; --force replaces it")
    exported(lenet, "safetensors", tmp_path / "out", "--force")
    assert not (tmp_path / "out" / "model.pt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_leaves_nothing_behind(lenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_chosen: TorchScript, _trained: Trained, folder: Path) -> str:
        (folder / "model.pt").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(TorchScript, "write", full)
    line = refused(lenet, "torchscript", tmp_path / "out", status=2)
    assert line.endswith("/out: cannot be written (No space left on device); give another folder")


def test_a_model_that_answers_otherwise_is_not_kept(
    lenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(lenet, "torchscript", tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    right = TorchScript.open

    def wrong(chosen: TorchScript, folder: Path):
        runner = right(chosen, folder)
        return lambda images: runner(images).flip(1)

    monkeypatch.setattr(TorchScript, "open", wrong)
    line = refused(lenet, "torchscript", tmp_path / "out", "--force")
    assert "the exported model differs from the original by" in line
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


class Branching(nn.Module):
    """Answers otherwise for bright pictures: an exporter that follows one example does not see that."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = images.flatten(1)
        return features if features.sum() < 1 else -features


@pytest.fixture
def branching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    models.names()
    monkeypatch.setattr(models, "_entries", dict(models._entries))

    @models.register("branching", summary="for this test")
    @dataclass(frozen=True)
    class Builder(ModelBuilder):
        default_image_size = 4

        def build(self, request: ModelRequest) -> Recognizer:
            return Recognizer(Branching(), nn.Linear(16, 3), Preprocessing(4, 1))

    run = fake_runs.write_run(tmp_path / "logs")
    save_model(
        run.model, Builder().build(ModelRequest(3, 4, 1)), ModelDescription("branching", 3, ("a", "b", "c"), 4, 1)
    )
    return run.path


def test_a_model_that_an_exporter_cannot_follow(branching: Path, tmp_path: Path) -> None:
    line = refused(branching, "onnx", tmp_path / "out")
    assert line.startswith("--format onnx: model.name=branching cannot be exported so (")
    assert line.endswith("; use another --format")
    assert "differs from the original" in refused(branching, "torchscript", tmp_path / "out")
    exported(branching, "safetensors", tmp_path / "out")


# the model card


def test_the_card_has_the_figures_of_the_run(tmp_path: Path) -> None:
    run = kept(tmp_path / "logs", "lenet", 28, channels=1)
    exported(run, "safetensors", tmp_path / "out")
    text = card(tmp_path / "out")

    _, front, _ = text.split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "pytorch"
    for row in (
        "| method | fedavg |",
        "| model | lenet, 3 classes, 28 × 28 pixels |",
        "| weights before training | random |",
        "| rounds | 6 |",
        "| clients | 4 |",
        "| training images | 32; a client has from 8 to 8 |",
        "| test images | 8 |",
        "| test accuracy | 80.0 % (95 %: 62.7–90.5), 30 images; chance 33.3 %, majority class 25.0 % |",
        "| worst client | 30.0 % |",
        "| best client | 90.0 % |",
    ):
        assert row in text
    assert "Training had no differential privacy." in text


def test_the_card_escapes_and_has_no_path(lenet: Path, tmp_path: Path) -> None:
    run = kept(tmp_path / "logs", "lenet", 28, channels=1)
    description = replace(load_model(run / "model")[1], class_names=("<img src=x>", "a|b", "[x](javascript:y)\n# c"))
    save_model(run / "model", load_model(run / "model")[0], description)
    exported(run, "safetensors", tmp_path / "out")
    text = card(tmp_path / "out")

    assert "&lt;img src=x&gt;" in text
    assert r"a\|b" in text
    assert r"\[x\](javascript:y) # c" in text
    assert "<" not in text
    exported(lenet, "safetensors", tmp_path / "other")
    for folder in ("out", "other"):
        for file in ("README.md", "preprocessing.json", "class_names.json"):
            assert str(tmp_path) not in (tmp_path / folder / file).read_text(encoding="utf-8")
            assert str(lenet.parent) not in (tmp_path / folder / file).read_text(encoding="utf-8")


def test_the_card_of_a_private_run_tells_epsilon_and_no_counts(tmp_path: Path) -> None:
    run = kept(tmp_path / "logs", "lenet", 28, channels=1)
    config = {**yaml.safe_load((run / "config.yaml").read_text()), "privacy": {"mode": "central", "delta": 1e-5}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines[-1]["measures"] = {"privacy/epsilon": 3.21}
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    exported(run, "safetensors", tmp_path / "out")
    text = card(tmp_path / "out")

    assert "The run claims ε = 3.21 at δ = 1e-05, for whole clients." in text
    assert "| images | not told: ε does not cover how many there are |" in text
    assert "| output | class |\n" in text
