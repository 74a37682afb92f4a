"""Maps of where a model sees a class."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tests.brightness import PLACES, brightness
from torch import Tensor, nn

from fedlens.errors import ModelError
from fedlens.inference.predict import imagenet_names
from fedlens.inference.why import Explainer
from fedlens.models.base import ModelRequest, Preprocessing, Recognizer
from fedlens.models.build import build_model, builder_named

DARK, BRIGHT = 0, 1


def pixels(side: int, channels: int = 1) -> np.ndarray:
    return np.full((side, side, channels), 255, np.uint8)


@pytest.mark.parametrize("place", [0, 3, 12, 15])
def test_a_model_that_looks_at_one_corner_lights_up_there(place: int) -> None:
    """LeNet's map has 2 × 2 places for each of the 4 × 4 after pooling. Grad-CAM would light up everywhere: the
    picture is the same everywhere, and it averages the gradients."""
    found = Explainer(brightness(range(place, place + 1))).map(pixels(28), BRIGHT)

    assert found.shape == (2 * PLACES, 2 * PLACES)
    row, column = divmod(place, PLACES)
    corner = found[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
    assert corner.max() == 1
    assert corner.sum() == found.sum()


def test_a_class_that_nothing_speaks_for_has_an_empty_map() -> None:
    assert not Explainer(against_brightness()).map(pixels(28), BRIGHT).any()


def against_brightness() -> Recognizer:
    model = brightness()
    with torch.no_grad():
        model.head.weight.neg_()
    return model


class OnePatch(nn.Module):
    """Attention of the class token to one patch alone."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self._token = 1 + patch

    def forward(self, tokens: Tensor, **_: object) -> Tensor:
        return torch.cat([tokens[:, self._token : self._token + 1], torch.zeros_like(tokens[:, 1:])], dim=1)


@pytest.mark.parametrize("patch", [0, 5, 35])
def test_a_vision_transformer_that_attends_to_one_patch_lights_up_there(patch: int) -> None:
    model = build_model(builder_named("vit", {"variant": "tiny"}), ModelRequest(4, 96, 3)).eval()
    model.backbone.blocks[-1].attn = OnePatch(patch)
    explainer = Explainer(model)

    maps = [explainer.map(pixels(96, 3), label) for label in range(4)]

    assert {found.shape for found in maps} == {(6, 6)}
    lit = {int(place) for found in maps for place in np.flatnonzero(found)}
    assert lit == {patch}  # some of the four classes gain from it, others lose


def test_two_things_in_one_picture_are_told_apart() -> None:
    """A cat on the left, a cup on the right, by a network with ImageNet weights."""
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    halves = [cv2.imread(str(folder / name))[:300, :300, ::-1] for name in ("chelsea.png", "coffee.png")]
    both = np.concatenate([cv2.resize(half, (112, 224)) for half in halves], axis=1)
    request = ModelRequest(1000, 224, 3, pretrained=True)
    explainer = Explainer(build_model(builder_named("efficientnet_lite0"), request).eval())

    cat, cup = (explainer.map(both, imagenet_names().index(name)) for name in ("tiger cat", "espresso"))

    assert cat.shape == cup.shape == (7, 7)
    assert cat[:, :3].sum() > 2 * cat[:, 4:].sum()
    assert cup[:, 4:].sum() > 2 * cup[:, :3].sum()


def test_a_model_without_places_is_refused() -> None:
    flat = Recognizer(nn.Flatten(), nn.Linear(64, 2), Preprocessing(8, 1))
    with pytest.raises(ModelError, match="no layer of this Flatten has a map of 4 × 4 places or more"):
        Explainer(flat).map(pixels(8), 0)


def test_captum_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "captum.attr", None)
    with pytest.raises(ModelError, match=r"--why needs the package captum: pip install 'fedlens\[why\]'"):
        Explainer(brightness())
