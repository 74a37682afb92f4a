"""The format interface: how a trained model is written, and how what was written is run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from fedlens.core.registry import Registry
from fedlens.models.base import Recognizer
from fedlens.models.description import ModelDescription

Runner = Callable[[Tensor], Tensor]
"""Pixels, uint8 (B, S, S, C) → logits, float32 (B, outputs)."""


@dataclass(frozen=True)
class Trained:
    """A whole trained model, in eval mode, on the CPU."""

    model: Recognizer
    description: ModelDescription

    @property
    def outputs(self) -> tuple[str, ...]:
        """A name for every output; those that the data had no class for have a number."""
        names = self.description.class_names
        return (*names, *(f"class {index}" for index in range(len(names), self.description.num_classes)))

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How a picture becomes the model's input, as plain values."""
        how, size, channels = self.model.preprocessing, self.description.image_size, self.description.image_channels
        return {
            "orientation": "as EXIF says",
            "crop": "the central square",
            "size": size,
            "interpolation": {"smaller": "area", "larger": "bicubic"},
            "colour": "RGB" if channels == 3 else "grey (ITU-R BT.601)",
            "pixels": {"type": "uint8", "shape": ["batch", size, size, channels]},
            "scale": 1 / 255,
            "model_channels": how.channels,
            "mean": list(how.mean),
            "std": list(how.std),
        }


class WithPreprocessing(nn.Module):
    """Scaling, normalisation and the model in one: uint8 (B, S, S, C) → logits (B, outputs)."""

    def __init__(self, model: Recognizer) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(self.model.prepare(images))
        return logits


class Format(ABC):
    """One format. Its registered name is what `--format` takes.

    library   the library that loads it, as Hugging Face names it
    packages  whose versions the model card tells
    files     what `write` leaves in the folder; the first is the model
    whole     scaling and normalisation are inside the model
    usage     Python that loads the model in the current folder and makes `logits` of `images`, which are pixels
    """

    library: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    files: ClassVar[tuple[str, ...]]
    whole: ClassVar[bool]
    usage: ClassVar[str]

    @abstractmethod
    def check(self, trained: Trained) -> None:
        """Check what can be known before anything is written.

        Raises:
            ConfigError: a package is missing.
            ModelError: this model has no such format; the message says what to use instead.
        """

    @abstractmethod
    def write(self, trained: Trained, folder: Path) -> str:
        """Write `files` to `folder`; gives what a user should know of them, such as their version.

        Raises:
            Exception: whatever a foreign exporter raises that cannot follow the model.
        """

    @abstractmethod
    def open(self, folder: Path) -> Runner:
        """Read what `write` has left in `folder`, as another program would."""


formats: Registry[Format] = Registry("format", "fedlens.export.formats")
