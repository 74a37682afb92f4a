"""A model on disk comes back as it was."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from fedlens.errors import ModelError
from fedlens.models.artefact import load_model, save_model
from fedlens.models.base import ModelRequest
from fedlens.models.build import build_model, builder_named
from fedlens.models.description import ModelDescription


@pytest.fixture
def saved(tmp_path):
    model = build_model(builder_named("timm:resnet10t"), ModelRequest(3, 32, 1), norm="group", seed=9)
    model.to(memory_format=torch.channels_last)
    description = ModelDescription(
        builder="timm",
        parameters={"architecture": "resnet10t"},
        num_classes=3,
        class_names=("cat", "dog", "été"),
        image_size=32,
        image_channels=1,
        norm="group",
        accuracy=0.75,
    )
    save_model(tmp_path / "model", model, description)
    return tmp_path / "model", model, description


def test_round_trip(saved):
    folder, model, description = saved
    loaded, read = load_model(folder)

    assert read == description
    assert not loaded.training
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)
    )
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]


def test_strict(saved):
    folder, _, _ = saved
    content = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(content | {"num_classes": 4}))

    with pytest.raises(ModelError, match=r"head.weight should be \(4, 512\), and is \(3, 512\); and 1 more$"):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 10**12}, "num_classes: Input should be less than or equal to 10000000"),
        ({"num_classes": 10**7}, r"head.weight should be \(10000000, 512\), and is \(3, 512\)"),  # 20 GB
        ({"image_size": 10**9}, "image_size: Input should be less than or equal to 65536"),
        ({"num_classes": int("9" * 4000)}, "num_classes: "),
        (
            {"builder": "lenet", "parameters": {}, "norm": "batch", "image_size": 65536},
            "backbone.conv1.weight should be",
        ),
        ({"builder": None}, "a module of your own"),
    ],
)
def test_what_a_description_asks_for_is_held_against_the_file_first(saved, change, message):
    folder, _, _ = saved
    content = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(content | change))

    with pytest.raises(ModelError, match=message) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


def test_damage_and_absence(saved, tmp_path):
    folder, _, _ = saved
    with pytest.raises(ModelError, match="no saved model there"):
        load_model(tmp_path)
    (folder / "model.json").write_text("{")
    with pytest.raises(ModelError, match=r"model\.json is damaged"):
        load_model(folder)


def test_a_users_own_module_must_be_given(tmp_path):
    module = nn.Linear(2, 2)
    save_model(tmp_path, module, ModelDescription(None, 2, ("a", "b"), 8, 3))

    with pytest.raises(ModelError, match=r"load_model\(folder, module\)"):
        load_model(tmp_path)
    loaded, _ = load_model(tmp_path, nn.Linear(2, 2))
    assert torch.equal(loaded.weight, module.weight)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dual_encoder", "fusion"])
def test_texts_cost_no_import_of_the_compiler(tmp_path, name):
    """torch imports it to fill tensors on the meta device with normal values: more than a second."""
    model = build_model(builder_named(name), ModelRequest(2, 28, 1, class_names=("cup", "fork")))
    save_model(tmp_path, model, ModelDescription(name, 2, ("cup", "fork"), 28, 1))
    code = (
        "import sys\nfrom pathlib import Path\nfrom fedlens.models.artefact import load_model\n"
        "load_model(Path(sys.argv[1]))\nassert 'torch._dynamo' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
