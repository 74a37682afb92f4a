"""The text tower by NumPy: the features that the network gives, and which files it leaves to PyTorch."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from threadpoolctl import threadpool_limits

from fedlens.models.base import ModelRequest
from fedlens.models.build import build_model, builder_named
from fedlens.models.dual_encoder import DualEncoder
from fedlens.models.minilm import SentenceEncoder
from fedlens.models.text_by_numpy import read_text_tower
from fedlens.models.text_readers import FEW, Sentences

TEXTS = ("a leather boot", "x", "<pad>", "a <pad> b", "红色条纹衬衫", "👟 " * 40, "a long red dress with sleeves, " * 9)


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
    tower = read_text_tower(stored(model, tmp_path / "model.safetensors"))
    assert tower is not None
    assert tower.width == model.backbone.width
    found = np.stack([tower.features_of(text) for text in TEXTS])
    expected = torch.stack([model.features_of(text) for text in TEXTS]).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert np.abs(found[1:] - found[:-1]).max(1).min() > 0.01  # so that equal features mean something


def test_a_sentence_encoder(tmp_path: Path) -> None:
    model = dual_encoder(text="minilm")
    tower = read_text_tower(stored(model, tmp_path / "model.safetensors"))
    assert tower is not None
    for text in TEXTS:
        np.testing.assert_allclose(tower.features_of(text), model.features_of(text).numpy(), atol=2e-6)


@pytest.mark.slow
def test_the_sentence_encoder_is_that_of_its_own_library() -> None:
    """More texts than NumPy is used for are read by sentence_transformers."""
    texts = [*TEXTS, *(f"number {number}" for number in range(FEW + 1 - len(TEXTS)))]
    library = Sentences().read(texts, lambda _done, _all: None)
    own = Sentences().read(texts[:FEW], lambda _done, _all: None)
    torch.testing.assert_close(own, library[:FEW], atol=2e-6, rtol=0)


def test_the_sentence_encoder_gives_the_same_bits_with_one_thread_and_two() -> None:
    """Workers compute with other numbers of threads than their coordinator, and read the names of classes, too."""
    encoder, found = SentenceEncoder(), []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append([encoder.features_of(text).tobytes() for text in TEXTS])
    assert found[0] == found[1]


def test_what_is_left_to_pytorch(tmp_path: Path) -> None:
    model, path = dual_encoder(), tmp_path / "model.safetensors"
    others = {
        "a part that it does not know": {"backbone.text.network.blocks.0.scale": torch.ones(16)},
        "half precision": {"backbone.text.project.weight": model.state_dict()["backbone.text.project.weight"].half()},
        "bfloat16": {"backbone.text.network.places": model.state_dict()["backbone.text.network.places"].bfloat16()},
    }
    for what, changed in others.items():
        assert read_text_tower(stored(model, path, **changed)) is None, what
    assert read_text_tower(stored(model, path)) is not None
    for name, cut in (
        ("project.weight", lambda values: values.flatten()),
        ("project.weight", lambda values: values[:, :5]),
        ("network.tokens.weight", lambda values: values[:3]),
        ("network.tokens.weight", lambda values: values[:, :6]),
        ("network.places", lambda values: values[:0]),
        ("network.blocks.0.mlp.0.bias", lambda values: values[0]),
        ("network.blocks.1.mlp.2.weight", lambda values: values[:, 1:]),
    ):
        damaged = cut(model.state_dict()[f"backbone.text.{name}"]).contiguous()
        assert read_text_tower(stored(model, path, **{f"backbone.text.{name}": damaged})) is None, (name, damaged.shape)
    whole = model.state_dict()
    del whole["backbone.text.network.blocks.1.mlp.2.bias"]
    save_file(whole, path)
    assert read_text_tower(path) is None
    path.write_bytes(b"torn")
    assert read_text_tower(path) is None
    assert read_text_tower(tmp_path / "gone") is None
    path.unlink()
    os.mkfifo(path)
    assert read_text_tower(path) is None  # and nothing is waited for
