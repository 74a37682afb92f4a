"""Dual encoders: an image and its text end near each other, so the name of a class is enough to recognise it.

Classification by comparing an image with a prompt for each class: Radford, Kim, Hallacy, Ramesh, Goh, Agarwal, Sastry,
Askell, Mishkin, Clark, Krueger, Sutskever 2021, https://arxiv.org/abs/2103.00020, section 3.1. Locking one tower, so
that what it knows is not forgotten: Zhai, Wang, Mustafa, Steiner, Keysers, Kolesnikov, Beyer 2022 (LiT),
https://arxiv.org/abs/2111.07991, where it is the image tower.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fedlens.core.labels import UNLABELLED
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
from fedlens.models.fedclip import AttentionAdapter
from fedlens.models.pair_losses import PairLoss, info_nce, pairwise_sigmoid
from fedlens.models.promptfl import VECTORS, Context
from fedlens.models.prompts import Prompts, in_main_memory
from fedlens.models.text_readers import TextReader
from fedlens.models.towers import PARTS, TwoTowers, of_present

if TYPE_CHECKING:
    from tensordict import TensorDict

Learns = Literal["both", "pairs", "labels"]
Tune = Literal["all", "prompt", "adapter"]

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
    lock_text: Annotated[
        bool,
        Field(description="leave the text tower as it is: a sentence encoder then keeps what it knows of other words"),
    ] = False
    tune: Annotated[
        Tune,
        Field(
            description="what is trained: all; or, of a trained model (model.weights), a prompt (PromptFL) or an "
            "adapter of image features (FedCLIP), which learn from labels"
        ),
    ] = "all"

    reads_texts: ClassVar[bool] = True
    published_whole: ClassVar[bool] = False
    """Its published weights are those of both towers."""

    @property
    def shows_words(self) -> bool:
        """Whether the text tower takes vectors before the words of a text."""
        return False

    @property
    def learns_pairs(self) -> bool:
        """Whether a row without a label trains it."""
        return self.tune == "all" and self.learns != "labels"

    def check(self) -> None:
        """As `ModelBuilder.check`.

        Raises:
            ModelError: as there; or the prompt has no place for the name.
        """
        super().check()
        if self.prompt.count("{}") != 1:
            raise ModelError(f"model.prompt={self.prompt!r}: write {{}} once, where the name of the class stands")
        if self.tune == "prompt" and not self.shows_words:
            raise ModelError(
                "model.tune=prompt puts vectors before the words of a text, which this text tower does not show: use "
                "model.name=dual_encoder with model.text=transformer, or model.tune=adapter"
            )

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
        comparison = Comparison(*FIRST_SCALE[self.pair_loss])
        if self.tune == "adapter":
            towers.adapter = AttentionAdapter(towers.width)
        if self.tune == "prompt":
            comparison.context = Context(towers.width)
        unnamed = (f"class {index}" for index in range(len(request.class_names), request.num_classes))
        model = DualEncoder(
            towers,
            comparison,
            preprocessing,
            reader,
            [*request.class_names[: request.num_classes], *unnamed],
            prompt="{}" if self.tune == "prompt" else self.prompt,
            pair_loss=self.pair_loss,
            learns=self.learns if self.tune == "all" else "labels",
        )
        if self.lock_text:
            model.lock(towers.text)
        for part in (comparison.context, towers.adapter):
            if part is not None:
                model.train_only(part)
        return model


class TextTower(nn.Module):
    """Texts as the reader gives them → features (B, width)."""

    def __init__(self, network: nn.Module, features: int, width: int) -> None:
        super().__init__()
        self.network = network
        self.project = nn.Linear(features, width, bias=False)
        nn.init.orthogonal_(self.project.weight)  # texts are as like each other as before

    def forward(self, texts: Tensor, context: Context | None = None) -> Tensor:
        """`context`: of a network of words, what stands before them."""
        found: Tensor = self.project(self.network(texts) if context is None else self.network(texts, context))
        return found


@models.register(
    "dual_encoder",
    summary="open vocabulary: images and texts in one space, trained as CLIP or SigLIP; names are classes",
)
@dataclass(frozen=True)
class DualEncoderBuilder(Contrastive, TwoTowers):
    @property
    def shows_words(self) -> bool:
        return self.text == "transformer"

    def check(self) -> None:
        """As `ModelBuilder.check`.

        Raises:
            ModelError: as there; or a context leaves no place for words.
        """
        super().check()
        if self.tune == "prompt" and self.max_tokens <= VECTORS:
            raise ModelError(
                f"model.tune=prompt puts {VECTORS} vectors before the words of a text, and model.max_tokens="
                f"{self.max_tokens} leaves no place for words: it has to be larger"
            )

    def build(self, request: ModelRequest) -> DualEncoder:
        seen, features, preprocessing = self.image_network(request)
        image = nn.Sequential(seen, nn.Linear(features, self.width, bias=False))
        text = TextTower(*self.text_network(), self.width)
        return self.encoder(Towers(image, text, self.width), preprocessing, self.text_reader(), request)


class Towers(nn.Module):
    """Features (B, width) of rows that have an image, a text or both, each of length 1; of a row with both, those of
    their sum. adapter: changes features of images; None: nothing does."""

    def __init__(self, image: nn.Module, text: nn.Module, width: int) -> None:
        super().__init__()
        self.image = image
        self.text = text
        self.width = width
        self.adapter: nn.Module | None = None

    def forward(self, inputs: Tensor | TensorDict) -> Tensor:
        """inputs: `image` (B, C, S, S), `text` (B, …) and `present` bool (B, 2); or images alone."""
        if isinstance(inputs, Tensor):
            return F.normalize(self.of_images(inputs).float(), dim=1)
        image, text, _ = self.apart(inputs)
        return F.normalize(image + text, dim=1)

    @property
    def of_images(self) -> nn.Module:
        """What makes features of images: the tower, and the adapter where there is one."""
        return self.image if self.adapter is None else nn.Sequential(self.image, self.adapter)

    def of_texts(self, texts: Tensor, context: Context | None = None) -> Tensor:
        """As the reader of texts gives them → (B, width), each of length 1. `context`: what stands before them."""
        found = self.text(texts) if context is None else self.text(texts, context)
        return F.normalize(found.float(), dim=1)

    def apart(self, inputs: TensorDict) -> tuple[Tensor, Tensor, Tensor]:
        """Features of the images and of the texts, (B, width) each, 0 where a row has none; and `present`."""
        present, nothing = inputs["present"], inputs["image"].new_zeros(self.width)
        image = of_present(self.of_images, inputs["image"], present[:, 0], nothing)
        text = of_present(self.text, inputs["text"], present[:, 1], nothing)
        return F.normalize(image.float(), dim=1), F.normalize(text.float(), dim=1), present


class Comparison(nn.Module):
    """How like two vectors of length 1 are, as logits: eˢ x·y + b, with s and b trained. context: what stands before
    the names of classes; None: the words of the prompt."""

    def __init__(self, scale: float, bias: float) -> None:
        super().__init__()
        self.context: Context | None = None
        self.scale = nn.Parameter(torch.tensor(scale))
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, some: Tensor, others: Tensor) -> Tensor:
        """(A, D) and (B, D) → (A, B)."""
        least = self.scale.clamp(max=LARGEST_SCALE)
        scale = self.scale + (least - self.scale).detach()  # has a gradient above the limit, too, so that it comes back
        with torch.autocast(some.device.type, enabled=False):  # bf16 would leave three digits to logits of up to 100
            return scale.exp() * some.float() @ others.float().T + self.bias


class AmongClasses(nn.Module):
    """Features (B, D) → logits (B, classes), for classes whose features are fixed."""

    classes: Tensor

    def __init__(self, comparison: Comparison, classes: Tensor) -> None:
        super().__init__()
        self.comparison = comparison
        self.register_buffer("classes", classes)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.comparison(features, self.classes)
        return logits


class DualEncoder(OwnObjective):
    """Recognises the class whose text is most like the row. `with_classes` gives a recogniser of other classes."""

    backbone: Towers
    head: Comparison
    class_inputs: Tensor

    def __init__(
        self,
        backbone: Towers,
        head: Comparison,
        preprocessing: Preprocessing,
        reader: TextReader,
        class_names: Sequence[str],
        *,
        prompt: str,
        pair_loss: PairLoss,
        learns: Learns,
    ) -> None:
        super().__init__(backbone, head, preprocessing)
        self.parts = PARTS if backbone.adapter is None else {**PARTS, "backbone.adapter": "image"}
        self.text_reader = reader
        self._prompts = Prompts(reader, prompt)
        self._pair_loss = pairwise_sigmoid if pair_loss == "siglip" else info_nce
        self._learns = learns
        self.register_buffer("class_inputs", self.read_classes(class_names), persistent=False)

    def read_classes(self, class_names: Sequence[str]) -> Tensor:
        """(classes, …): the prompt of each class, as the text tower takes it; for `class_inputs`.

        Raises:
            ModelError: two prompts are cut to the same tokens.
        """
        return self._prompts.read(class_names).to(self.head.scale.device)

    def note_of_cut(self, class_names: Sequence[str]) -> str:
        """A line for the user if prompts of some classes are not read to their end; "" if all are."""
        return self._prompts.note_of_cut(class_names, 0 if self.head.context is None else VECTORS)

    def class_features(self) -> Tensor:
        """(classes, width), each of length 1."""
        return self._features_of_classes(self.class_inputs)

    def with_classes(self, class_names: Sequence[str]) -> Recognizer:
        """A recogniser of other classes, which has this model's parts. The texts of its classes are encoded once, so it
        is for predictions and not for training."""
        with torch.no_grad():
            classes = self._features_of_classes(self.read_classes(class_names))
        return self._with_head(AmongClasses(self.head, classes))

    def encoder(self) -> Recognizer:
        """What gives the features of its inputs in place of logits, and has this model's parts."""
        return self._with_head(nn.Identity())

    @torch.inference_mode()
    def features_of(self, text: str) -> Tensor:
        """(width,), of length 1: those of the text itself, without the prompt of classes."""
        return self.backbone.of_texts(in_main_memory(self._prompts.reader, [text]).to(self.head.scale.device))[0]

    def lock(self, part: nn.Module) -> None:
        """`part` gets no gradient and stays in eval mode."""
        part.requires_grad_(False)
        self.hold([*self.held, part])

    def train_only(self, part: nn.Module) -> None:
        """Freeze all else: it gets no gradient and stays in eval mode. Files of weights need not have `part`."""
        self.lock(self.backbone.image)
        self.lock(self.backbone.text)
        self.head.requires_grad_(False)
        part.requires_grad_(True)
        self.added = frozenset(name for name, value in self.named_parameters() if value.requires_grad)

    def _features_of_classes(self, inputs: Tensor) -> Tensor:
        return self.backbone.of_texts(inputs, self.head.context)

    def _with_head(self, head: nn.Module) -> Recognizer:
        model = Recognizer(self.backbone, head, self.preprocessing)
        model.parts, model.text_reader = self.parts, self.text_reader
        return model.train(self.training)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(inputs), self.class_features())
        return logits

    def classes_and_features(self) -> tuple[int, int]:
        return len(self.class_inputs), self.backbone.width

    def objective(self, inputs: Tensor, labels: Tensor, cross_entropy: CrossEntropy) -> tuple[Tensor, Tensor, Tensor]:
        image, text, present = self.backbone.apart(cast("TensorDict", inputs))
        classes, features = self.class_features(), F.normalize(image + text, dim=1)
        logits = self.head(features, classes)
        loss = self._nothing(logits)
        if self._learns != "labels":
            loss = loss + self._of_pairs(image, text, present.all(1))
        if self._learns != "pairs":
            loss = loss + self._of_labels(image, text, present, classes, labels, cross_entropy)
        return logits, loss, features

    def _nothing(self, logits: Tensor) -> Tensor:
        """0, with a gradient of 0: for batches whose rows have nothing that the model learns from."""
        tuned = [value.sum() for value in self.parameters() if self.added and value.requires_grad]
        return 0.0 * torch.stack([logits.sum(), *tuned]).sum()

    def _of_pairs(self, image: Tensor, text: Tensor, complete: Tensor) -> Tensor:
        """The contrastive loss of complete rows."""
        if not complete.any():
            return image.new_zeros(())
        return self._pair_loss(self.head(image[complete], text[complete]))

    def _of_labels(
        self, image: Tensor, text: Tensor, present: Tensor, classes: Tensor, labels: Tensor, cross_entropy: CrossEntropy
    ) -> Tensor:
        """The mean cross-entropy of labelled images and texts. Images do not move the features of classes, so that the
        text tower learns from texts alone, whoever has them; but they do where the towers are frozen."""
        seen, read = present[:, 0], present[:, 1]
        anchors = classes if self.added else classes.detach()
        named = labels != UNLABELLED
        seen, read = seen & named, read & named
        logits = torch.cat([self.head(image[seen], anchors), self.head(text[read], classes)])
        return cross_entropy(logits, torch.cat([labels[seen], labels[read]])) if len(logits) else image.new_zeros(())


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
