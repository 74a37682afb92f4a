"""Run folders whose models answer by brightness, and pictures for them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from fedlens.models.artefact import save_model
from fedlens.models.base import ModelRequest, Recognizer
from fedlens.models.build import build_model, builder_named
from fedlens.models.description import ModelDescription
from fedlens.models.dual_encoder import DualEncoder

NAMES = ("dark", "bright")
PLACES = 4
"""Along a side, after both convolutions and poolings."""


def brightness(places: range | None = None) -> Recognizer:
    """LeNet with the outputs dark, bright, and one without a name: logits 10, 20 · brightness, 5. `places`: of the
    16 from top left to bottom right, those whose brightness counts."""
    model = build_model(builder_named("lenet"), ModelRequest(3, 28, 1))
    with torch.no_grad():
        _see_brightness(model.backbone, places or range(PLACES * PLACES))
        model.head.weight.zero_()
        model.head.weight[:, 0] = torch.tensor([0.0, 20.0, 0.0])
        model.head.bias[:] = torch.tensor([10.0, 0.0, 5.0])
    return model


def _see_brightness(lenet: nn.Module, counted: range) -> None:
    """Its first feature is the brightness, 0 to 1; the others are 0."""
    for parameter in lenet.parameters():
        parameter.zero_()
    lenet.conv1.weight[0] = 1 / 25  # the mean of 5 × 5 pixels travels through the first channel
    lenet.conv2.weight[0, 0] = 1 / 25
    lenet.dense1.weight[0, list(counted)] = 1 / len(counted)
    lenet.dense2.weight[0, 0] = 1


def like_texts(run: Path, dark: str, bright: str, *, seed: int = 0) -> Path:
    """The run folder of a dual encoder, to which a black picture has the features of the text `dark`, and a white one
    those of `bright`. It was trained on the classes "first" and "second"."""
    keys = {"width": 16, "max_tokens": 12}
    names = ("first", "second")
    model = build_model(builder_named("dual_encoder", keys), ModelRequest(2, 28, 1, class_names=names), seed=seed)
    assert isinstance(model, DualEncoder)
    model.eval()
    black, white = model.features_of(dark), model.features_of(bright)
    lenet, features = model.backbone.image
    with torch.no_grad():
        _see_brightness(lenet, range(PLACES * PLACES))
        lenet.dense2.bias[1] = 1
        features.weight.zero_()
        features.weight[:, 0] = white - black
        features.weight[:, 1] = black
    save_model(run / "model", model, ModelDescription("dual_encoder", 2, names, 28, 1, keys))
    return run


def by_brightness(run: Path, names: tuple[str, ...] = NAMES, places: range | None = None) -> Path:
    save_model(run / "model", brightness(places), ModelDescription("lenet", 3, names, 28, 1))
    return run


def picture(path: Path, value: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((50, 40, 3), value, np.uint8))
    return path
