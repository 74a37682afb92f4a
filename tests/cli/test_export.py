"""`fedlens export`: what is written runs without FedLens and answers as the model of the run does."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
import yaml
from tests import fake_runs, runs
from tests.docs.snippets import ROOT, blocks
from torch import nn
from typer.testing import CliRunner

import fedlens
from fedlens.cli.main import app
from fedlens.core.files import read_json
from fedlens.export.base import Trained
from fedlens.export.formats.onnx import OPSET
from fedlens.export.formats.torchscript import TorchScript
from fedlens.inference.personal import clients_of
from fedlens.models.artefact import ModelDescription, load_model, save_model
from fedlens.models.base import ModelBuilder, ModelRequest, Preprocessing, Recognizer, models
from fedlens.models.build import build_model, builder_named
from fedlens.tracking.run_dir import RunDir

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # that it is deprecated is known

WHOLE = {"onnx": "model.onnx", "torchscript": "model.pt"}


def export(run: Path, name: str, out: Path, *options: str):
    return CliRunner().invoke(app, ["export", str(run), "--format", name, "--out", str(out), *options])


def exported(run: Path, name: str, out: Path, *options: str) -> str:
    result = export(run, name, out, *options)
    assert result.exit_code == 0, result.output
    return result.output


def refused(run: Path, name: str, out: Path, *options: str, status: int = 1) -> str:
    """The one line; there is nothing new beside `out`."""
    before = sorted(out.parent.iterdir()) if out.parent.exists() else []
    result = export(run, name, out, *options)
    assert result.exit_code == status, result.output
    assert (sorted(out.parent.iterdir()) if out.parent.exists() else []) == before
    (line,) = result.stderr.splitlines()
    return line


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of LeNet on the sample, with test images."""
    return runs.run(tmp_path_factory.mktemp("lenet"), "federated.num_rounds=1", "runtime.name=in_process").folder


@pytest.fixture(scope="module")
def lenet_exports(lenet: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """Format → the folder of an export of that run, and what the command said."""
    base = tmp_path_factory.mktemp("exports")
    return {name: (base / name, exported(lenet, name, base / name)) for name in ("onnx", "torchscript", "safetensors")}


@pytest.fixture(scope="module")
def fedper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose clients keep their heads."""
    folder = tmp_path_factory.mktemp("fedper")
    given = (
        "federated.num_rounds=1",
        "federated.fraction_fit=1",
        "data.partition.scheme=iid",
        "data.partition.clients=3",
    )
    return runs.run(folder, *given, "personalization.name=fedper", "runtime.name=in_process").folder


def kept(base: Path, name: str, size: int, *, norm: str = "batch", channels: int = 3, **parameters: str) -> Path:
    """A finished run of another model with random weights and statistics, whose images are gone."""
    run = fake_runs.write_run(base)
    request = ModelRequest(len(fake_runs.CLASSES), size, channels)
    model = build_model(builder_named(name, parameters), request, norm=norm)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    suffix = {"timm": {"architecture": name.partition(":")[2]}}.get(name.partition(":")[0], {})
    description = ModelDescription(
        name.partition(":")[0],
        len(fake_runs.CLASSES),
        fake_runs.CLASSES,
        size,
        channels,
        {**parameters, **suffix},
        norm,
    )
    save_model(run.model, model, description)
    return run.path


def pixels(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, *shape), dtype=np.uint8)


def original(run: Path, images: np.ndarray) -> torch.Tensor:
    model, _ = load_model(run / "model")
    with torch.inference_mode():
        return model(model.prepare(torch.from_numpy(images)))


def by_onnx(folder: Path, images: np.ndarray) -> torch.Tensor:
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    return torch.from_numpy(session.run(None, {"images": images})[0])


def by_torchscript(folder: Path, images: np.ndarray) -> torch.Tensor:
    return torch.jit.load(str(folder / "model.pt"))(torch.from_numpy(images))


BY = {"onnx": by_onnx, "torchscript": by_torchscript}


@pytest.mark.parametrize("name", BY)
def test_the_exported_model_takes_any_number_of_pictures(lenet: Path, lenet_exports, name: str) -> None:
    folder, said = lenet_exports[name]
    assert "tried on      500 of the 1,000 test images of the run\n" in said
    assert "top class     the same for 500 of 500\n" in said
    for count in (1, 7):
        images = pixels(count, 28, 28, 1)
        torch.testing.assert_close(BY[name](folder, images), original(lenet, images), rtol=1e-4, atol=1e-5)
    assert {path.name for path in folder.iterdir()} == {
        WHOLE[name], "README.md", "class_names.json", "preprocessing.json",
    }  # fmt: skip


def test_onnx_has_opset_class_names_and_preprocessing_inside(lenet: Path, lenet_exports) -> None:
    folder, said = lenet_exports["onnx"]
    model = onnx.load(folder / "model.onnx")
    assert f"format        opset {OPSET}\n" in said
    assert [(one.domain, one.version) for one in model.opset_import if not one.domain] == [("", OPSET)]
    inside = {one.key: json.loads(one.value) for one in model.metadata_props}
    names = list(load_model(lenet / "model")[1].class_names)
    assert inside["class_names"] == names == read_json(folder / "class_names.json")
    assert inside["preprocessing"]["pixels"] == {"type": "uint8", "shape": ["batch", 28, 28, 1]}
    assert read_json(folder / "preprocessing.json") == {**inside["preprocessing"], "inside_model": True}
    (given,), (answer,) = model.graph.input, model.graph.output
    assert (given.name, answer.name) == ("images", "logits")
    assert given.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_torchscript_has_class_names_inside(lenet: Path, lenet_exports) -> None:
    inside = {"class_names.json": "", "preprocessing.json": ""}
    torch.jit.load(str(lenet_exports["torchscript"][0] / "model.pt"), _extra_files=inside)
    assert tuple(json.loads(inside["class_names.json"])) == load_model(lenet / "model")[1].class_names


def test_safetensors_are_loaded_as_a_runs_own_model(lenet: Path, lenet_exports) -> None:
    images = pixels(3, 28, 28, 1)
    model, description = load_model(lenet_exports["safetensors"][0])
    assert description == load_model(lenet / "model")[1]
    assert torch.equal(model(model.prepare(torch.from_numpy(images))), original(lenet, images))


def test_the_best_model_is_another_one(lenet: Path, tmp_path: Path) -> None:
    run = shutil.copytree(lenet, tmp_path / "run")
    model, description = load_model(run / "best")
    with torch.no_grad():
        model.head.bias += 1
    save_model(run / "best", model, description)

    exported(run, "torchscript", tmp_path / "last")
    exported(run, "torchscript", tmp_path / "best", "--best")

    images = pixels(2, 28, 28, 1)
    torch.testing.assert_close(by_torchscript(tmp_path / "best", images), by_torchscript(tmp_path / "last", images) + 1)
    assert "the shared model of round 1, which has the lowest validation loss" in card(tmp_path / "best")


@pytest.mark.parametrize("name", BY)
@pytest.mark.parametrize(
    ("model", "size", "options"),
    [
        ("timm:test_resnet", 32, {}),  # with BatchNorm
        ("timm:test_vit", 96, {}),
        pytest.param("cnn", 28, {}, marks=pytest.mark.slow),
        pytest.param("resnet18", 32, {}, marks=pytest.mark.slow),
        pytest.param("resnet18", 32, {"norm": "group", "channels": 1}, marks=pytest.mark.slow),
        pytest.param("mobilenetv3", 32, {}, marks=pytest.mark.slow),
        pytest.param("vit", 40, {"variant": "tiny"}, marks=pytest.mark.slow),  # padded to 48
        pytest.param("vit", 32, {"variant": "b16"}, marks=pytest.mark.full),
        pytest.param("resnet50", 64, {}, marks=pytest.mark.full),
        pytest.param("efficientnet_lite0", 64, {}, marks=pytest.mark.full),
        pytest.param("mobilenetv3", 64, {"variant": "large"}, marks=pytest.mark.full),
    ],
)
def test_other_models(tmp_path: Path, name: str, model: str, size: int, options: dict[str, str]) -> None:
    run = kept(tmp_path / "logs", model, size, **options)
    result = export(run, name, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "note: tried on random pictures, not on test images: " in result.stderr
    images = pixels(3, size, size, int(options.get("channels", 3)))
    torch.testing.assert_close(BY[name](tmp_path / "out", images), original(run, images), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "size", "options"),
    [
        ("timm:test_resnet", 64, {"channels": 1}),
        ("timm:test_vit", 96, {}),
        pytest.param("vit", 48, {"variant": "tiny"}, marks=pytest.mark.slow),
        ("efficientnet_lite0", 64, {}),
    ],
)
def test_timm_reads_a_folder_of_timm(
    tmp_path: Path, model: str, size: int, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = kept(tmp_path / "logs", model, size, **options)
    exported(run, "timm", tmp_path / "out")

    network = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()

    how = timm.data.resolve_model_data_config(network)
    assert (how["input_size"], how["crop_pct"], how["crop_mode"]) == ((3, size, size), 1.0, "center")
    images = pixels(3, size, size, int(options.get("channels", 3)))
    scaled = torch.from_numpy(images).permute(0, 3, 1, 2).expand(-1, 3, -1, -1) / 255
    mean, std = (torch.tensor(how[key]).view(3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(network((scaled - mean) / std), original(run, images), rtol=1e-4, atol=1e-5)
    config = read_json(tmp_path / "out" / "config.json")
    assert config["label_names"] == list(fake_runs.CLASSES)
    again = timm.create_model(
        config["architecture"],
        checkpoint_path=str(tmp_path / "out" / "model.safetensors"),
        **config["model_args"],
    ).eval()
    torch.testing.assert_close(again((scaled - mean) / std), original(run, images), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(perform(tmp_path / "out", images, monkeypatch)["logits"], original(run, images))


def test_timm_is_for_models_of_timm(lenet: Path, tmp_path: Path) -> None:
    line = refused(lenet, "timm", tmp_path / "out")
    assert line == ("--format timm: model.name=lenet is no architecture of timm; use --format onnx or safetensors")
    group = kept(tmp_path / "group", "timm:test_resnet", 64, norm="group")
    assert "model.norm=group is in no architecture of timm" in refused(group, "timm", tmp_path / "out")
    padded = kept(tmp_path / "padded", "vit", 40, variant="tiny")
    assert "pads images of 40 pixels to whole patches, and timm would not" in refused(padded, "timm", tmp_path / "out")


def perform(folder: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> dict:
    """The variables that the code in the model card sets."""
    (_, code) = card(folder).split("```python\n")
    monkeypatch.chdir(folder)
    found = {"images": images}
    exec(code.partition("```")[0], found)
    return found


def test_the_code_of_the_manual_loads_safetensors_without_fedlens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = kept(tmp_path / "logs", "resnet18", 32)
    exported(run, "safetensors", tmp_path / "exported-resnet")
    (code,) = [block.body for block in blocks(ROOT / "docs" / "models.md") if "exported-resnet" in block.body]
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(code, found)
    model, _ = load_model(run / "model")
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(found["network"](images), model(images))


@pytest.mark.parametrize("name", ["onnx", "torchscript", "safetensors"])
def test_the_code_of_the_model_card_runs(
    lenet: Path, lenet_exports, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = pixels(2, 28, 28, 1)
    found = perform(lenet_exports[name][0], images, monkeypatch)
    torch.testing.assert_close(torch.as_tensor(found["logits"]), original(lenet, images), rtol=1e-4, atol=1e-5)
    assert tuple(found["names"]) == load_model(lenet / "model")[1].class_names


# a client's own model


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


def card(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


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
