"""The text tower by NumPy: the features that the network gives, and which files it leaves to PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fedlens.models.base import ModelRequest
from fedlens.models.build import build_model, builder_named
from fedlens.models.dual_encoder import DualEncoder
from fedlens.models.text_by_numpy import TextTower

TEXTS = ("a leather boot", "x", "红色条纹衬衫", "👟 " * 40, "a long red dress with sleeves, " * 9)


def dual_encoder(**keys: object) -> DualEncoder:
    """With weights as large as those of a trained one, so that each part counts."""
    names = ("first", "second")
    request = ModelRequest(2, 28, 1, class_names=names)
    model = build_model(builder_named("dual_encoder", {"width": 16, "max_tokens": 24, **keys}), request)
    assert isinstance(model, DualEncoder)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.3)
    return model.eval()


def stored(model: DualEncoder, path: Path, **changed: torch.Tensor) -> Path:
    save_file({**model.state_dict(), **changed}, path)
    return path


@pytest.mark.parametrize("keys", [{}, {"width": 32}, {"tune": "prompt"}, {"tune": "adapter"}])
def test_the_features_are_those_of_the_network(tmp_path: Path, keys: dict[str, object]) -> None:
    model = dual_encoder(**keys)
    tower = TextTower.read(stored(model, tmp_path / "model.safetensors"))
    assert tower is not None
    assert tower.width == model.backbone.width
    found = np.stack([tower.features_of(text) for text in TEXTS])
    expected = torch.stack([model.features_of(text) for text in TEXTS]).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert np.abs(found[1:] - found[:-1]).max(1).min() > 0.01  # so that equal features mean something


def test_what_is_left_to_pytorch(tmp_path: Path) -> None:
    model, path = dual_encoder(), tmp_path / "model.safetensors"
    others = {
        "a part that it does not know": {"backbone.text.network.blocks.0.scale": torch.ones(16)},
        "half precision": {"backbone.text.project.weight": model.state_dict()["backbone.text.project.weight"].half()},
        "bfloat16": {"backbone.text.network.places": model.state_dict()["backbone.text.network.places"].bfloat16()},
    }
    for what, changed in others.items():
        assert TextTower.read(stored(model, path, **changed)) is None, what
    whole = model.state_dict()
    del whole["backbone.text.network.blocks.1.mlp.2.bias"]
    save_file(whole, path)
    assert TextTower.read(path) is None
    path.write_bytes(b"torn")
    assert TextTower.read(path) is None
    assert TextTower.read(tmp_path / "gone") is None
