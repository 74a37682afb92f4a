"""Dual encoders: an image and its text end near each other, so the name of a class is enough to recognise it.

Contrastive training (InfoNCE) and classification by comparing an image with a prompt for each class: Radford, Kim,
Hallacy, Ramesh, Goh, Agarwal, Sastry, Askell, Mishkin, Clark, Krueger, Sutskever 2021, https://arxiv.org/abs/2103.00020,
sections 2.3 and 3.1. The pairwise sigmoid loss: Zhai, Mustafa, Kolesnikov, Beyer 2023 (SigLIP),
https://arxiv.org/abs/2303.15343, algorithm 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fedlens.errors import ModelError
from fedlens.models.base import (
    CrossEntropy,
    ModelBuilder,
    ModelRequest,
    OwnObjective,
    Preprocessing,
    Recognizer,
    models,
)
from fedlens.models.text_readers import TextReader
from fedlens.models.towers import PARTS, TwoTowers, of_present

if TYPE_CHECKING:
    from tensordict import TensorDict

PairLoss = Literal["infonce", "siglip"]
Learns = Literal["both", "pairs", "labels"]

MOST_CLASSES = 10_000
"""Classes that an image is compared with at once: the text of each is encoded in every step."""

FIRST_SCALE: dict[PairLoss, tuple[float, float]] = {
    "infonce": (math.log(1 / 0.07), 0.0),
    "siglip": (math.log(10), -10.0),
}
"""The first logarithm of the scale of similarities, and the first bias, as in both papers."""

LARGEST_SCALE = math.log(100)
"""Radford et al., section 2.5."""


@dataclass(frozen=True)
class Contrastive(ModelBuilder):
    """What builders of dual encoders have in common."""

    pair_loss: Annotated[
        PairLoss, Field(description="infonce: as CLIP, over all pairs of a batch; siglip: each pair by itself")
    ] = "infonce"
    learns: Annotated[
        Learns,
        Field(description="pairs: which text belongs to which image; labels: which class' prompt; both: their sum"),
    ] = "both"
    prompt: Annotated[str, Field(max_length=200, description="text of a class; {} stands for its name")] = (
        "a photo of {}"
    )

    reads_texts: ClassVar[bool] = True

    def check(self) -> None:
        """As `ModelBuilder.check`.

        Raises:
            ModelError: as there; or the prompt has no place for the name.
        """
        super().check()
        if self.prompt.count("{}") != 1:
            raise ModelError(f"model.prompt={self.prompt!r}: write {{}} once, where the name of the class stands")

    def encoder(
        self, towers: Towers, preprocessing: Preprocessing, reader: TextReader, request: ModelRequest
    ) -> DualEncoder:
        """The dual encoder of these towers.

        Raises:
            ModelError: there are too many classes.
        """
        if request.num_classes > MOST_CLASSES:
            raise ModelError(
                f"a dual encoder compares an image with the names of all classes, and there are "
                f"{request.num_classes:,}: at most {MOST_CLASSES:,}"
            )
        return DualEncoder(
            towers,
            Comparison(*FIRST_SCALE[self.pair_loss]),
            preprocessing,
            reader,
            [
                *request.class_names,
                *(f"class {index}" for index in range(len(request.class_names), request.num_classes)),
            ],
            prompt=self.prompt,
            pair_loss=self.pair_loss,
            learns=self.learns,
        )


@models.register(
    "dual_encoder",
    summary="open vocabulary: images and texts in one space, trained as CLIP or SigLIP; names are classes",
)
@dataclass(frozen=True)
class DualEncoderBuilder(Contrastive, TwoTowers):
    def build(self, request: ModelRequest) -> DualEncoder:
        seen, features, preprocessing = self.image_network(request)
        image = nn.Sequential(seen, nn.Linear(features, self.width, bias=False))
        network, features = self.text_network()
        text = nn.Sequential(network, nn.Linear(features, self.width, bias=False))
        return self.encoder(Towers(image, text, self.width), preprocessing, self.text_reader(), request)


class Towers(nn.Module):
    """Features (B, width) of rows that have an image, a text or both, each of length 1; of a row with both, those of
    their sum."""

    def __init__(self, image: nn.Module, text: nn.Module, width: int) -> None:
        super().__init__()
        self.image = image
        self.text = text
        self.width = width

    def forward(self, inputs: Tensor | TensorDict) -> Tensor:
        """inputs: `image` (B, C, S, S), `text` (B, …) and `present` bool (B, 2); or images alone."""
        if isinstance(inputs, Tensor):
            return F.normalize(self.image(inputs).float(), dim=1)
        image, text, _ = self.apart(inputs)
        return F.normalize(image + text, dim=1)

    def apart(self, inputs: TensorDict) -> tuple[Tensor, Tensor, Tensor]:
        """Features of the images and of the texts, (B, width) each, 0 where a row has none; and `present`."""
        present, nothing = inputs["present"], inputs["image"].new_zeros(self.width)
        image = of_present(self.image, inputs["image"], present[:, 0], nothing)
        text = of_present(self.text, inputs["text"], present[:, 1], nothing)
        return F.normalize(image.float(), dim=1), F.normalize(text.float(), dim=1), present


class Comparison(nn.Module):
    """How like two vectors of length 1 are, as logits: eˢ x·y + b, with s and b trained."""

    def __init__(self, scale: float, bias: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, some: Tensor, others: Tensor) -> Tensor:
        """(A, D) and (B, D) → (A, B)."""
        return self.scale.clamp(max=LARGEST_SCALE).exp() * some @ others.T + self.bias


class DualEncoder(OwnObjective):
    """Recognises the class whose text is most like the row. `recognize` gives it other classes."""

    backbone: Towers
    head: Comparison
    class_inputs: Tensor

    def __init__(
        self,
        backbone: Towers,
        head: Comparison,
        preprocessing: Preprocessing,
        reader: TextReader,
        class_names: list[str],
        *,
        prompt: str,
        pair_loss: PairLoss,
        learns: Learns,
    ) -> None:
        super().__init__(backbone, head, preprocessing)
        self.parts = PARTS
        self.text_reader = reader
        self._prompt = prompt
        self._pair_loss = pairwise_sigmoid if pair_loss == "siglip" else info_nce
        self._learns = learns
        self.recognize(class_names)

    def recognize(self, class_names: list[str]) -> None:
        """From now on the classes are those of `class_names`."""
        assert self.text_reader is not None
        texts = [self._prompt.replace("{}", name) for name in class_names]
        with torch.device("cpu"):
            read = self.text_reader.read(texts, lambda _done, _all: None)
        self.register_buffer("class_inputs", read.to(self.head.scale.device), persistent=False)

    def class_features(self) -> Tensor:
        """(classes, width), each of length 1."""
        return F.normalize(self.backbone.text(self.class_inputs).float(), dim=1)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(inputs), self.class_features())
        return logits

    def classes_and_features(self) -> tuple[int, int]:
        return len(self.class_inputs), self.backbone.width

    def objective(self, inputs: Tensor, labels: Tensor, cross_entropy: CrossEntropy) -> tuple[Tensor, Tensor, Tensor]:
        image, text, present = self.backbone.apart(cast("TensorDict", inputs))
        classes, features = self.class_features(), F.normalize(image + text, dim=1)
        logits = self.head(features, classes)
        loss = 0.0 * logits.sum()  # so that there is a gradient if the rows have nothing that this model learns from
        if self._learns != "labels":
            loss = loss + self._of_pairs(image, text, present.all(1))
        if self._learns != "pairs":
            loss = loss + self._of_labels(image, text, present, classes, labels, cross_entropy)
        return logits, loss, features

    def _of_pairs(self, image: Tensor, text: Tensor, complete: Tensor) -> Tensor:
        """The contrastive loss of complete rows."""
        if not complete.any():
            return image.new_zeros(())
        return self._pair_loss(self.head(image[complete], text[complete]))

    def _of_labels(
        self, image: Tensor, text: Tensor, present: Tensor, classes: Tensor, labels: Tensor, cross_entropy: CrossEntropy
    ) -> Tensor:
        """The mean cross-entropy of images and of texts. Images do not move the texts of the classes, so that the text
        tower learns from texts alone, whoever has them."""
        seen, read = present[:, 0], present[:, 1]
        logits = torch.cat([self.head(image[seen], classes.detach()), self.head(text[read], classes)])
        return cross_entropy(logits, torch.cat([labels[seen], labels[read]]))


def info_nce(logits: Tensor) -> Tensor:
    """(N, N) similarities of N images with their N texts → the mean of the cross-entropies over texts and over images:
    Radford et al., figure 3."""
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def pairwise_sigmoid(logits: Tensor) -> Tensor:
    """(N, N) similarities of N images with their N texts → −1/N Σᵢⱼ log σ(zᵢⱼ lᵢⱼ), where z is 1 for an image's own
    text and −1 for all others: Zhai et al., algorithm 1."""
    signs = 2 * torch.eye(len(logits), device=logits.device) - 1
    return -F.logsigmoid(signs * logits).sum() / len(logits)


def as_dual_encoder(model: Recognizer, what: str) -> DualEncoder:
    """`model`, which is a dual encoder.

    Raises:
        ModelError: it is none; the message begins with `what` needs one.
    """
    if not isinstance(model, DualEncoder):
        raise ModelError(
            f"{what}: this model knows its own classes alone; train one that compares images with texts: "
            "model.name=dual_encoder or model.name=open_clip"
        )
    return model
