"""Late fusion of images and texts, where either may be missing.

The features of both are put side by side before one linear head; where a row lacks one, a learned vector stands in its
place. Modality dropout takes one of both from some complete rows of a training batch, so that the model learns to do
without it: Neverova et al., "ModDrop: adaptive multi-modal gesture recognition", TPAMI 2016,
https://arxiv.org/abs/1501.00102.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from fedlens.errors import ModelError
from fedlens.models.base import Modality, ModelBuilder, ModelRequest, Recognizer, doubled_if_single, models
from fedlens.models.build import builder_named
from fedlens.models.text_readers import SENTENCE_FEATURES, Sentences, TextReader, Tokens
from fedlens.models.text_transformer import TextTransformer

if TYPE_CHECKING:
    from tensordict import TensorDict

PARTS: dict[str, Modality] = {"backbone.image": "image", "backbone.text": "text"}
"""Module → the modality that it learns from."""


@models.register(
    "fusion", summary="images and texts: an image backbone beside a small text transformer, either may be missing"
)
@dataclass(frozen=True)
class Fusion(ModelBuilder):
    """`image` is built as it would be alone, so it has the same preprocessing, default size and published weights."""

    image: Annotated[str, Field(description="image backbone: a name that `fedlens models` lists, or timm:…")] = "lenet"
    text: Annotated[
        Literal["transformer", "minilm"],
        Field(description="transformer: small, trained from scratch; minilm: features of a frozen sentence encoder"),
    ] = "transformer"
    width: Annotated[int, Field(ge=8, le=1024, multiple_of=8, description="features of each of both")] = 128
    max_tokens: Annotated[int, Field(ge=1, le=512, description="length of a text in tokens; the rest is cut")] = 32
    modality_dropout: Annotated[
        float, Field(ge=0, le=1, description="share of a batch's complete rows that lose image or text in training")
    ] = 0.3

    reads_texts: ClassVar[bool] = True

    @property
    def default_image_size(self) -> int:
        return self._image_builder().default_image_size

    def check(self) -> None:
        """As `ModelBuilder.check`.

        Raises:
            ModelError: `image` takes texts itself, or there is no such architecture.
        """
        if self._image_builder().reads_texts:
            raise ModelError(f"model.image={self.image} takes texts itself: use an image backbone, such as lenet")
        self._image_builder().check()

    def text_reader(self) -> TextReader:
        return Sentences() if self.text == "minilm" else Tokens(self.max_tokens)

    def build(self, request: ModelRequest) -> Recognizer:
        seen = self._image_builder().build(request)
        features = cast(nn.Linear, seen.head).in_features  # every architecture of ours ends in one linear layer
        backbone = FusionBackbone(Tower(seen.backbone, features, self.width), self._text_tower(), self.modality_dropout)
        recognizer = Recognizer(backbone, nn.Linear(2 * self.width, request.num_classes), seen.preprocessing)
        recognizer.parts = PARTS
        recognizer.text_reader = self.text_reader()
        return recognizer

    def _text_tower(self) -> Tower:
        """What a frozen encoder gives is only projected."""
        if self.text == "minilm":
            return Tower(nn.Identity(), SENTENCE_FEATURES, self.width)
        encoder = TextTransformer(Tokens(self.max_tokens).vocabulary, self.max_tokens, self.width)
        return Tower(encoder, self.width, self.width)

    def _image_builder(self) -> ModelBuilder:
        return builder_named(self.image)


class Tower(nn.Module):
    """A network and its projection to `width` features: (B, …) → (B, width)."""

    def __init__(self, network: nn.Module, features: int, width: int) -> None:
        super().__init__()
        self.network = network
        self.project = nn.Sequential(nn.Linear(features, width), nn.LayerNorm(width))
        self.width = width

    def forward(self, inputs: Tensor) -> Tensor:
        projected: Tensor = self.project(self.network(inputs))
        return projected


class FusionBackbone(nn.Module):
    """Features (B, 2 · width) of rows that have an image, a text or both."""

    def __init__(self, image: Tower, text: Tower, modality_dropout: float) -> None:
        super().__init__()
        self.image = image
        self.text = text
        self.modality_dropout = modality_dropout
        self.missing_image = nn.Parameter(torch.randn(image.width))
        self.missing_text = nn.Parameter(torch.randn(text.width))

    def forward(self, inputs: Tensor | TensorDict) -> Tensor:
        """inputs: `image` (B, C, S, S), `text` (B, …) and `present` bool (B, 2); or images alone."""
        if isinstance(inputs, Tensor):
            return torch.cat([self.image(inputs), self.missing_text.expand(len(inputs), -1)], 1)
        present = inputs["present"]
        if self.training:
            present = dropped(present, self.modality_dropout)
        return torch.cat(
            [
                of_present(self.image, inputs["image"], present[:, 0], self.missing_image),
                of_present(self.text, inputs["text"], present[:, 1], self.missing_text),
            ],
            1,
        )


def of_present(tower: nn.Module, inputs: Tensor, present: Tensor, missing: Tensor) -> Tensor:
    """(B, D): the output of `tower` for rows that are `present` (B,), `missing` (D,) for the others. Only these are
    computed, and count in running statistics."""
    rows = present.nonzero().squeeze(1)
    if len(rows) == len(present):
        return doubled_if_single(tower, inputs)
    filled = missing.expand(len(present), -1)
    if not len(rows):
        return filled
    found = doubled_if_single(tower, inputs[rows])
    return filled.index_copy(0, rows, found.to(filled.dtype))


def dropped(present: Tensor, rate: float) -> Tensor:
    """`present` (B, 2), in which each complete row loses one modality with probability `rate`, either one alike."""
    draw = torch.rand(len(present), device=present.device)
    loses = torch.stack([draw < rate / 2, draw >= 1 - rate / 2], 1)
    return present & ~(loses & present.all(1, keepdim=True))
