"""What `fedlens export` writes runs without FedLens and answers as the model of the run does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest
import timm
import torch
from tests import fake_runs
from tests.docs.snippets import ROOT, blocks
from tests.exports import BY, WHOLE, by_torchscript, card, export, exported, kept, original, perform, pixels, refused

from fedlens.core.files import read_json
from fedlens.export.formats.onnx import OPSET
from fedlens.models.artefact import load_model, save_model

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # that it is deprecated is known


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
