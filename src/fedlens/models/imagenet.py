"""Common parts of architectures with published ImageNet weights: their source, and replacing the head."""

from __future__ import annotations

from functools import partial
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from fedlens.models.base import ModelRequest, Preprocessing, Recognizer
from fedlens.models.weights import WithWeights

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
CLASSES = 1000


class ImageNetBuilder(WithWeights):
    """An architecture whose published weights recognise the thousand classes of ImageNet."""


def imagenet_preprocessing(image_size: int) -> Preprocessing:
    """The channel statistics that torchvision's weights were trained with."""
    return Preprocessing(image_size, 3, MEAN, STD)


def split_head(network: nn.Module, head: str, request: ModelRequest, how: Preprocessing) -> Recognizer:
    """Replace the last linear layer, called `head` inside `network`, by one for the requested classes.

    Pretrained weights keep their own head if its number of outputs is the requested one. A new head on pretrained
    features starts at zero: all classes are then equally likely, and the first steps do not disturb the features.
    """
    last = cast(nn.Linear, network.get_submodule(head))
    network.set_submodule(head, nn.Identity())
    if last.out_features != request.num_classes:
        last = nn.Linear(last.in_features, request.num_classes)
        if request.pretrained:
            zero(last)
    return Recognizer(network, last, how)


def zero(head: nn.Linear) -> None:
    """Set the parameters of `head` to zero."""
    nn.init.zeros_(head.weight)
    if head.bias is not None:
        nn.init.zeros_(head.bias)


def pad_to_patches(network: nn.Module, side: int, patch: int) -> None:
    """Make `network` pad images of `side` pixels with zeros to the next multiple of `patch`."""
    missing = -side % patch
    if missing:
        before = missing // 2
        padding = (before, missing - before, before, missing - before)
        network.register_forward_pre_hook(partial(_pad, padding))


def _pad(padding: tuple[int, int, int, int], _network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (functional.pad(inputs[0], padding),)
