"""Whether an exported model answers as the original does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlens.export.base import Runner, WithPreprocessing
from fedlens.models.base import Recognizer

TOLERANCE = 1e-3
"""The largest difference of an output, as a share of the largest output (of 1, if all are smaller). Other libraries
add in another order: 3e-6 was the most for ResNet-18, MobileNetV3 and ViT-tiny. A wrong layer, or wrong preprocessing,
gives far more."""

_BATCH = 64


@dataclass(frozen=True)
class Agreement:
    """images: tried; same: those with the same most probable class; largest: difference of an output."""

    images: int
    same: int
    largest: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Outputs that are not finite never agree."""
        return self.largest <= self.tolerance


@torch.inference_mode()
def compare(model: Recognizer, exported: Runner, pixels: Tensor) -> Agreement:
    """Run both models on `pixels`, uint8 (N, S, S, C)."""
    original = WithPreprocessing(model).eval()
    pairs = [(original(batch), exported(batch)) for batch in _batches(pixels)]
    wanted, found = (torch.cat(parts).float() for parts in zip(*pairs, strict=True))
    same = int((wanted.argmax(1) == found.argmax(1)).sum())
    scale = max(1.0, float(wanted.abs().max()))
    return Agreement(len(pixels), same, float((wanted - found).abs().max()), TOLERANCE * scale)


def _batches(pixels: Tensor) -> Iterator[Tensor]:
    """The first picture alone, then the others together: an exported model has to take any number."""
    yield pixels[:1]
    if len(pixels) > 1:
        yield from pixels[1:].split(_BATCH)
