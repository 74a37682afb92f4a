"""Dual encoders of OpenCLIP with CLIP's own tokenizer, and their published weights: `model.architecture=ViT-B-32`.

Ilharco, Wortsman, Wightman, Gordon, Carlini, Taori, Dave, Shankar, Namkoong, Miller, Hajishirzi, Farhadi, Schmidt 2021,
"OpenCLIP", https://doi.org/10.5281/zenodo.5143773.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor

from fedlens.errors import ModelError
from fedlens.models.base import ModelRequest, Preprocessing, Recognizer, models
from fedlens.models.dual_encoder import Contrastive, DualEncoder, Towers
from fedlens.models.imagenet import pad_to_patches
from fedlens.models.tensor_files import load_into, read_tensors
from fedlens.models.text_readers import ClipTokens, open_clip
from fedlens.models.timm_models import try_out
from fedlens.models.weights import CheckedDownload, HubFile, HubWeights, WeightSource, WithWeights

SMALL = "small"

SMALL_NETWORK: Mapping[str, Any] = MappingProxyType(
    {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 28, "patch_size": 4, "layers": 4, "width": 128, "head_width": 32},
        "text_cfg": {"context_length": 32, "vocab_size": 49408, "layers": 4, "width": 64, "heads": 4},
    }
)
"""Parts of CLIP with 1.0 M parameters beside the 3.2 M of the token embedding."""

RESNET_STEP = 32
"""CLIP's residual networks halve their input five times."""

CHECKSUM = re.compile(r"-[0-9a-f]{8,64}\.pth?$")
"""How an address ends where the file is checked."""


@models.register(
    "open_clip", summary="open vocabulary: networks of OpenCLIP with CLIP's published weights; names are classes"
)
@dataclass(frozen=True)
class OpenClip(Contrastive, WithWeights):
    architecture: Annotated[
        str, Field(description="OpenCLIP's name, such as ViT-B-32; small: trained from scratch on small images")
    ] = SMALL
    tag: Annotated[
        str | None,
        Field(description="OpenCLIP's name of published weights, such as openai; says the activation and colours, too"),
    ] = None

    published_whole: ClassVar[bool] = True

    def check(self) -> None:
        """As `ModelBuilder.check`.

        Raises:
            ModelError: as there; the package is not installed; it has no such architecture or weights; or the
                architecture needs a tokenizer of its own.
        """
        super().check()
        self._network()
        self._published()

    @property
    def default_image_size(self) -> int:
        """The side in pixels that the published weights were trained on."""
        return int(self._network()["vision_cfg"]["image_size"])

    def text_reader(self) -> ClipTokens:
        return ClipTokens(self._network()["text_cfg"]["context_length"])

    def source(self) -> WeightSource:
        published, name = self._published(), f"open_clip architecture={self.architecture} tag={self.tag}"
        if published is None:
            ways = ", ".join(_tags(self.architecture)) or "there are none for it: set model.pretrained=false"
            raise ModelError(f"model.pretrained needs model.tag with architecture={self.architecture}: {ways}")
        if CHECKSUM.search(published["url"]):
            return ReleasedWeights(name, published["url"])
        return OpenClipOnHub(name, published["hf_hub"])

    def build(self, request: ModelRequest) -> DualEncoder:
        self.check()
        source = self.source() if request.pretrained else None
        model = self.encoder(
            self._towers(request.image_size), self._preprocessing(request), self.text_reader(), request
        )
        if source is not None:
            file = source.file()
            load_into(model, read_tensors(file), file, self)
        return model

    def renamed(self, model: Recognizer, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """As `ModelBuilder.renamed`. Position embeddings of images are resampled to the grid of `model`; only SigLIP
        has a bias of similarities."""
        from open_clip.model import convert_to_custom_text_state_dict

        published = {"logit_bias": torch.zeros(()), **convert_to_custom_text_state_dict(tensors)}
        found = {_ours(name): tensor for name, tensor in published.items()}
        own = model.state_dict()
        ours = own.keys() - {name for name in own if name.startswith("backbone.text.")}
        return {name: _shaped(tensor, own[name]) if name in ours else tensor for name, tensor in found.items()}

    def _network(self) -> dict[str, Any]:
        """What open_clip builds the two parts from.

        Raises:
            ModelError: there is no such architecture, or FedLens cannot train it.
        """
        from_package = open_clip()
        if self.architecture == SMALL:
            return deepcopy(dict(SMALL_NETWORK))
        found: dict[str, Any] | None = None
        if self.architecture in (known := [SMALL, *from_package.list_models()]):
            found = from_package.get_model_config(self.architecture)
        if found is None:
            near = difflib.get_close_matches(self.architecture, known, n=3)
            hint = f"did you mean {', '.join(near)}? " if near else ""
            raise ModelError(
                f"model.architecture={self.architecture!r}: open_clip has no such architecture; {hint}"
                "open_clip.list_models() gives all"
            )
        if "multimodal_cfg" in found or {"hf_model_name", "hf_tokenizer_name"} & set(found["text_cfg"]):
            raise ModelError(
                f"model.architecture={self.architecture} does not read texts with CLIP's own tokenizer; choose one "
                "that does, such as ViT-B-32, ViT-B-16, RN50 or MobileCLIP-S1"
            )
        found.pop("custom_text", None)
        return found

    def _published(self) -> dict[str, Any] | None:
        """What open_clip knows of the weights called `tag`."""
        if self.tag is None:
            return None
        from open_clip.pretrained import get_pretrained_cfg

        found: dict[str, Any] = get_pretrained_cfg(self.architecture, self.tag)
        if not found:
            tags = ", ".join(_tags(self.architecture)) or "none"
            raise ModelError(
                f"model.tag={self.tag!r}: open_clip has no such weights of {self.architecture}; it has: {tags}"
            )
        return found

    def _preprocessing(self, request: ModelRequest) -> Preprocessing:
        from open_clip.transform import PreprocessCfg

        published = self._published() or vars(PreprocessCfg())
        return Preprocessing(request.image_size, 3, tuple(published["mean"]), tuple(published["std"]))

    def _towers(self, side: int) -> Towers:
        """Both parts, random. Sides that do not fill the patches are padded.

        Raises:
            ModelError: the architecture does not take images of `side` pixels.
        """
        from open_clip.model import CustomTextCLIP

        config = self._network()
        vision = config["vision_cfg"]
        if published := self._published():
            config["quick_gelu"] = published.get("quick_gelu", False)
        step = 1 if "timm_model_name" in vision else vision.get("patch_size") or RESNET_STEP
        vision["image_size"] = side + -side % step
        try:
            network = CustomTextCLIP(**config)
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            raise ModelError(
                f"open_clip's {self.architecture} does not take data.image_size={side}: {error}"
            ) from error
        pad_to_patches(network.visual, side, step)
        try_out(network.visual, side, f"open_clip's {self.architecture}")
        return Towers(network.visual, network.text, config["embed_dim"])


@dataclass(frozen=True)
class ReleasedWeights(CheckedDownload):
    """Weights of a release on GitHub."""

    address: str

    @property
    def url(self) -> str:
        return self.address


@dataclass(frozen=True)
class OpenClipOnHub(HubWeights):
    """Weights on the Hub; `place`: repository/file, or repository/ for a file with one of OpenCLIP's usual names."""

    place: str

    @property
    def file_name(self) -> str:
        return f"{self.place.strip('/').replace('/', '--')}.weights"

    def on_hub(self) -> HubFile:
        from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

        repository, name = os.path.split(self.place)
        return HubFile(repository, (name,) if name else (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME))


def _tags(architecture: str) -> list[str]:
    from open_clip.pretrained import list_pretrained_tags_by_model

    tags: list[str] = list_pretrained_tags_by_model(architecture)
    return tags


def _shaped(tensor: Tensor, own: Tensor) -> Tensor:
    """`tensor` in the shape of `own`, where both are single numbers, or one embedding for the whole image before those
    of a square grid."""
    from timm.layers import resample_abs_pos_embed

    if tensor.numel() == own.numel() == 1:
        return tensor.reshape(own.shape)
    if tensor.shape == own.shape or tensor.shape[1:] != own.shape[1:] or own.ndim != 2:
        return tensor
    before, side = math.isqrt(len(tensor) - 1), math.isqrt(len(own) - 1)
    if (len(tensor), len(own)) != (1 + before**2, 1 + side**2):
        return tensor
    return cast(Tensor, resample_abs_pos_embed(tensor[None], new_size=[side, side])[0])


def _ours(name: str) -> str:
    """The name of a tensor in `DualEncoder`, by that in open_clip."""
    part, _, rest = name.partition(".")
    places = {"visual": f"backbone.image.{rest}", "text": f"backbone.text.{rest}"}
    return places.get(part) or {"logit_scale": "head.scale", "logit_bias": "head.bias"}.get(name, name)
