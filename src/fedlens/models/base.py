"""The model interface: every builder returns a `Recognizer`: preprocessing, backbone and head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Self, cast

import torch
from torch import Tensor, nn

from fedlens.core.registry import Registry

if TYPE_CHECKING:
    from fedlens.models.text_readers import TextReader

Modality = Literal["image", "text"]


@dataclass(frozen=True)
class Preprocessing:
    """Converts uint8 images to the backbone's input: x / 255, then (x − mean) / std, per channel.

    `channels` is the number of input channels: grey images are repeated if it is 3, colour channels are averaged if it
    is 1. `image_size` is the side, in pixels, that the model was designed for.
    """

    image_size: int
    channels: int
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


@dataclass(frozen=True)
class ModelRequest:
    """What the configuration requests of a builder. `image_channels`: channels of the data (1 or 3); `class_names`: of
    as many classes as have one."""

    num_classes: int
    image_size: int
    image_channels: int
    pretrained: bool = False
    weights: Path | None = None
    class_names: tuple[str, ...] = ()


class Recognizer(nn.Module):
    """backbone: float (B, C, S, S) → features (B, D); head: features → logits (B, num_classes).

    Held parts stay in eval mode during training: their normalisation statistics are frozen like their weights, and
    dropout would only add noise to the features.

    Where the model takes images and texts, `parts` are the modules that learn from one modality only, and `text_reader`
    makes of texts what it takes. `added`: names of parameters that files of weights need not have.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.preprocessing = preprocessing
        self.held: tuple[nn.Module, ...] = ()
        self.parts: Mapping[str, Modality] = {}
        self.text_reader: TextReader | None = None
        self.added: frozenset[str] = frozenset()

    def hold(self, parts: Iterable[nn.Module]) -> None:
        """Set `parts` as the ones that stay in eval mode."""
        self.held = tuple(parts)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for part in self.held:
            part.eval()
        return self

    def prepare(self, images: Tensor) -> Tensor:
        """uint8 (B, S, S, C) → float32 (B, C', S, S), normalised; float input passes unchanged."""
        return prepare(images, self.preprocessing)


CrossEntropy = Callable[[Tensor, Tensor], Tensor]
"""(logits (B, num_classes), labels (B,)) → their mean cross-entropy, as the configuration smooths labels."""


class OwnObjective(Recognizer, ABC):
    """A recogniser whose loss is more than the cross-entropy of its logits."""

    @abstractmethod
    def objective(self, inputs: Tensor, labels: Tensor, cross_entropy: CrossEntropy) -> tuple[Tensor, Tensor, Tensor]:
        """The logits (B, num_classes) of a batch of inputs; its loss, which can be differentiated whatever the rows
        lack; and what the backbone gives for the inputs (B, D)."""

    @abstractmethod
    def classes_and_features(self) -> tuple[int, int]:
        """num_classes and D."""


def classes_and_features(model: Recognizer) -> tuple[int, int]:
    """The numbers of classes, and of features that the backbone gives for a row."""
    if isinstance(model, OwnObjective):
        return model.classes_and_features()
    head = cast(nn.Linear, model.head)
    return head.out_features, head.in_features


def beside_texts(images: Tensor, texts: Tensor, present: Tensor) -> Tensor:
    """The input of a model that takes both: a `TensorDict` of `image` (B, C, S, S), `text` (B, …) and `present` bool
    (B, 2), which says whether a row has an image, and a text. It is cut, joined and indexed like the tensor that it is
    declared as; only such a model looks inside."""
    from tensordict import TensorDict

    parts = {"image": images, "text": texts.to(images.device), "present": present.to(images.device)}
    return cast(Tensor, TensorDict(parts, batch_size=[len(images)]))


def doubled_if_single(module: nn.Module, inputs: Tensor) -> Tensor:
    """The output of `module` for `inputs`. A single row is duplicated, because BatchNorm needs two values; both copies
    get the same gradient."""
    if len(inputs) > 1:
        outputs: Tensor = module(inputs)
        return outputs
    twice: Tensor = module(torch.cat([inputs, inputs]))
    return twice[:1]


def prepare(images: Tensor, how: Preprocessing) -> Tensor:
    if images.is_floating_point():
        return images
    return normalized(images.permute(0, 3, 1, 2).float().div_(255.0), how)


def normalized(pixels: Tensor, how: Preprocessing) -> Tensor:
    """Pixels from 0 to 1, (B, C, S, S) → the backbone's input, (B, C', S, S)."""
    if pixels.shape[1] != how.channels:
        pixels = pixels.expand(-1, how.channels, -1, -1) if how.channels == 3 else pixels.mean(1, keepdim=True)
    if how.mean == (0.0,) and how.std == (1.0,):
        return pixels
    mean = torch.tensor(how.mean, device=pixels.device).view(1, -1, 1, 1)
    std = torch.tensor(how.std, device=pixels.device).view(1, -1, 1, 1)
    return (pixels - mean).div_(std)


class ModelBuilder(ABC):
    """One architecture. The fields of the dataclass are its configuration keys under `model`.

    reads_texts  it takes texts beside images, as `text_reader` reads them
    """

    reads_texts: ClassVar[bool] = False

    @property
    @abstractmethod
    def default_image_size(self) -> int:
        """Side in pixels if none is configured and the images are large enough. A class attribute is sufficient."""

    def check(self) -> None:  # noqa: B027
        """Check the parameters before any image is read; by default there is nothing to check.

        Raises:
            ModelError: there is no such architecture.
        """

    def text_reader(self) -> TextReader | None:
        """How it reads texts; None: it takes images alone."""
        return None

    def renamed(self, model: Recognizer, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The `tensors` of a file that has the architecture's own names, under the names of `model`. By default those
        that the backbone does not have are the head's, if that is one layer."""
        backbone = model.backbone.state_dict()
        rest = [name for name in tensors if name not in backbone]
        layers = {name.rpartition(".")[0] for name in rest}
        is_head = len(layers) == 1 and {name.rpartition(".")[2] for name in rest} <= {"weight", "bias"}
        named = {f"backbone.{name}": tensor for name, tensor in tensors.items() if name in backbone}
        named |= {f"head.{name.rpartition('.')[2]}" if is_head else name: tensors[name] for name in rest}
        return named

    @abstractmethod
    def build(self, request: ModelRequest) -> Recognizer:
        """Build the model.

        Raises:
            ModelError: weights are not available or do not fit; the request cannot be met.
        """


models: Registry[ModelBuilder] = Registry("model", "fedlens.models")
