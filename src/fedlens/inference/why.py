"""Where in a picture a model sees the class that it names.

Gradient × activation of the deepest layer that still has at least 4 × 4 places, summed over its channels, negative
values set to 0: HiResCAM, Draelos and Carin 2020, "Use HiResCAM instead of Grad-CAM for faithful explanations of
convolutional neural networks", https://arxiv.org/abs/2011.08891, by captum's `LayerGradientXActivation`. For networks
that end in global average pooling it is Grad-CAM (section 3.3 of the paper). For the others, LeNet among them, Grad-CAM
averages the gradients over the picture, and so shows places that the class does not depend on. In vision transformers
the layer is the last normalisation whose patches the class depends on: that before the last attention.

captum is the extra `fedlens[why]`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlens.data.images import Pixels
from fedlens.errors import ModelError
from fedlens.models.base import Recognizer

FEWEST = 4
"""Places along a side of the map."""

_MOST_PREFIX = 5
"""Tokens before the patches: the class token, one for distillation, up to four registers."""

Map = NDArray[np.float32]
"""(h, w), 0 to 1: places from top left to bottom right; the highest is 1, or all are 0 if nothing speaks for the
class."""

Places = Callable[[Tensor], Tensor]
"""A layer's attributions → (1, h, w), summed over the channels."""


class Explainer:
    """Maps for the pictures of one model."""

    def __init__(self, model: Recognizer) -> None:
        """Raises ModelError: captum is missing."""
        try:
            from captum.attr import LayerGradientXActivation
        except ImportError as error:
            raise ModelError("--why needs the package captum: pip install 'fedlens[why]'") from error
        self._model = model
        self._method = LayerGradientXActivation
        self._layer: tuple[nn.Module, Places] | None = None

    def map(self, pixels: Pixels, label: int) -> Map:
        """Where the output `label` comes from in `pixels`, uint8 (S, S, C).

        Raises:
            ModelError: no layer of the model has places, or none that the output depends on.
        """
        inputs = self._model.prepare(torch.tensor(pixels)[None]).requires_grad_()
        if self._layer is None:
            self._layer = self._deepest(inputs, label)
        found = self._attributions(*self._layer, inputs, label)[0].clamp(min=0)
        return np.asarray((found / found.max().clamp(min=torch.finfo().tiny)).numpy(), np.float32)

    def _attributions(self, layer: nn.Module, places: Places, inputs: Tensor, label: int) -> Tensor:
        found: Tensor = self._method(self._model, layer).attribute(inputs, target=label)
        return places(found.detach())

    def _deepest(self, inputs: Tensor, label: int) -> tuple[nn.Module, Places]:
        for layer, places in reversed(_with_places(self._model, inputs)):
            if self._attributions(layer, places, inputs, label).any():
                return layer, places
        raise ModelError(
            f"--why: no layer of this {type(self._model.backbone).__name__} has a map of {FEWEST} × {FEWEST} places or "
            "more that its answer depends on; leave --why out"
        )


def _with_places(model: nn.Module, inputs: Tensor) -> list[tuple[nn.Module, Places]]:
    """The layers whose outputs lie on the picture, in the order of their ends; none that is used several times."""
    ended: list[tuple[nn.Module, Places | None]] = []

    def note(layer: nn.Module, _inputs: Any, output: Any) -> None:
        ended.append((layer, _places(layer, output)))

    hooks = [layer.register_forward_hook(note) for layer in model.modules()]
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    times = [layer for layer, _ in ended]
    return [(layer, places) for layer, places in ended if places is not None and times.count(layer) == 1]


def _places(layer: nn.Module, output: Any) -> Places | None:
    """How the places of a layer's output are found; None if it has none, or too few."""
    if not isinstance(output, Tensor):
        return None
    if output.ndim == 4 and output.shape[2] == output.shape[3] >= FEWEST:
        return _channels_first
    if output.ndim == 4 and output.shape[1] == output.shape[2] >= FEWEST:
        return _channels_last
    if output.ndim == 3 and isinstance(layer, nn.LayerNorm) and _side(output) >= FEWEST:
        return _patches
    return None


def _channels_first(found: Tensor) -> Tensor:
    return found.sum(1)


def _channels_last(found: Tensor) -> Tensor:
    return found.sum(-1)


def _patches(found: Tensor) -> Tensor:
    """(1, tokens, channels) → (1, side, side)."""
    side = _side(found)
    return found.sum(-1)[:, -side * side :].reshape(len(found), side, side)


def _side(tokens: Tensor) -> int:
    """Patches along a side; 0 if the tokens are no square of patches after a few others."""
    side = math.isqrt(tokens.shape[1])
    return side if tokens.shape[1] - side * side <= _MOST_PREFIX else 0
