"""All architectures of timm (Wightman, "PyTorch Image Models"), by their timm name: `model.name=timm:resnet26`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedlens.errors import ModelError
from fedlens.models.base import ModelRequest, Preprocessing, Recognizer, models
from fedlens.models.imagenet import ImageNetBuilder, split_head
from fedlens.models.weights import TimmWeights

TimmNetwork = Any
"""An nn.Module with timm's additional attributes, for which timm has no type."""


@models.register(
    "timm",
    summary="any architecture of timm, as timm:<architecture>, for example timm:convnext_nano",
    suffix_field="architecture",
)
@dataclass(frozen=True)
class Timm(ImageNetBuilder):
    architecture: str

    def check(self) -> None:
        check_architecture(self.architecture)

    @property
    def default_image_size(self) -> int:
        """The side in pixels that its published weights were trained on; 224 if timm lists none."""
        from timm.models import get_pretrained_cfg

        check_architecture(self.architecture)
        published = get_pretrained_cfg(self.architecture)
        return int(published.input_size[-1]) if published else 224

    def source(self) -> TimmWeights:
        check_architecture(self.architecture)
        return TimmWeights(f"timm:{self.architecture}", self.architecture)

    def build(self, request: ModelRequest) -> Recognizer:
        tensors = self.source().tensors() if request.pretrained else None
        network = timm_network(self.architecture, request.image_size, tensors)
        model = split_timm(network, request, timm_preprocessing(network, request.image_size))
        try_out(model, request.image_size, f"timm:{self.architecture}")
        return model


def check_architecture(name: str) -> None:
    """Raises ModelError, with the nearest spellings, if timm has no architecture of this name."""
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name.split(".", maxsplit=1)[0], timm.list_models(), n=3)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise ModelError(f"timm has no architecture {name!r}; {hint}timm.list_models() gives all")


def timm_network(architecture: str, side: int, tensors: Mapping[str, Tensor] | None = None) -> TimmNetwork:
    """timm's network for images of `side` pixels, random or with the published `tensors` (their names may be old).

    Raises:
        ModelError: there is no such architecture, it does not support this image size, or the tensors do not fit.
    """
    import timm

    check_architecture(architecture)
    published = timm.get_pretrained_cfg(architecture)
    options: dict[str, Any] = {"img_size": side} if published and published.fixed_input_size else {}
    if tensors is not None:
        options["pretrained_cfg_overlay"] = {"state_dict": dict(tensors)}
    try:
        network: TimmNetwork = timm.create_model(architecture, pretrained=tensors is not None, **options)
    except (RuntimeError, ValueError, TypeError, AssertionError, KeyError) as error:
        raise ModelError(f"timm:{architecture} cannot be built for images of {side} pixels: {error}") from error
    network.pretrained_cfg.pop("state_dict", None)
    _check_patches(network, architecture, side)
    return network


def timm_preprocessing(network: TimmNetwork, image_size: int) -> Preprocessing:
    """The channel statistics that the published weights of `network` were trained with."""
    published: Mapping[str, Any] = network.pretrained_cfg
    return Preprocessing(image_size, 3, tuple(published["mean"]), tuple(published["std"]))


def split_timm(network: TimmNetwork, request: ModelRequest, how: Preprocessing) -> Recognizer:
    """`split_head` at the layer that timm calls the classifier.

    Raises:
        ModelError: the classifier is not one linear layer (a convolution, or two heads).
    """
    last = network.get_classifier()
    name = next(
        (name for name, module in network.named_modules() if module is last and isinstance(last, nn.Linear)), ""
    )
    if not name:
        what = network.pretrained_cfg.get("architecture", type(network).__name__)
        raise ModelError(f"timm:{what} does not end in one linear layer, so that its head cannot be replaced")
    return split_head(network, name, request, how)


def _check_patches(network: TimmNetwork, architecture: str, side: int) -> None:
    """Refuses image sizes that are no multiple of the patch size: timm would crop the rest without a message."""
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    step = max(patch) if isinstance(patch, tuple) else 1
    if side % step:
        fits = side + -side % step
        raise ModelError(
            f"timm:{architecture} needs sides that are multiples of {step}: data.image_size={fits}, not {side}"
        )


def try_out(network: nn.Module, side: int, name: str) -> None:
    """Pass one empty image of `side` pixels through a network: many only fail then if images are too small.

    Raises:
        ModelError: it fails; `name` is in the message.
    """
    network.eval()
    try:
        with torch.inference_mode():
            network(torch.zeros(1, 3, side, side))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ModelError(f"{name} does not take data.image_size={side}: {error}") from error
    network.train()
