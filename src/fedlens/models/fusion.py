"""Late fusion of images and texts, where either may be missing.

The features of both are put side by side before one linear head; where a row lacks one, a learned vector stands in its
place. Modality dropout takes one of both from some complete rows of a training batch, so that the model learns to do
without it: Neverova et al., "ModDrop: adaptive multi-modal gesture recognition", TPAMI 2016,
https://arxiv.org/abs/1501.00102.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from fedlens.models.base import ModelRequest, Recognizer, models
from fedlens.models.towers import PARTS, TwoTowers, of_present

if TYPE_CHECKING:
    from tensordict import TensorDict


@models.register(
    "fusion", summary="images and texts: an image backbone beside a small text transformer, either may be missing"
)
@dataclass(frozen=True)
class Fusion(TwoTowers):
    modality_dropout: Annotated[
        float, Field(ge=0, le=1, description="share of a batch's complete rows that lose image or text in training")
    ] = 0.3

    def build(self, request: ModelRequest) -> Recognizer:
        seen, features, preprocessing = self.image_network(request)
        towers = Tower(seen, features, self.width), Tower(*self.text_network(), self.width)
        backbone = FusionBackbone(*towers, self.modality_dropout)
        recognizer = Recognizer(backbone, nn.Linear(2 * self.width, request.num_classes), preprocessing)
        recognizer.parts = PARTS
        recognizer.text_reader = self.text_reader()
        return recognizer


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
        self.missing_image = nn.Parameter(nn.init.normal_(torch.empty(image.width)))
        self.missing_text = nn.Parameter(nn.init.normal_(torch.empty(text.width)))

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


def dropped(present: Tensor, rate: float) -> Tensor:
    """`present` (B, 2), in which each complete row loses one modality with probability `rate`, either one alike."""
    draw = torch.rand(len(present), device=present.device)
    loses = torch.stack([draw < rate / 2, draw >= 1 - rate / 2], 1)
    return present & ~(loses & present.all(1, keepdim=True))
