"""Two towers, one for images and one for texts, each ending in features of the same width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, cast

from pydantic import Field
from torch import Tensor, nn

from fedlens.errors import ModelError
from fedlens.models.base import Modality, ModelBuilder, ModelRequest, Preprocessing, doubled_if_single
from fedlens.models.build import builder_named
from fedlens.models.minilm import SENTENCE_FEATURES
from fedlens.models.text_readers import Sentences, TextReader, Tokens
from fedlens.models.text_transformer import TextTransformer

PARTS: dict[str, Modality] = {"backbone.image": "image", "backbone.text": "text"}
"""Module → the modality that it learns from."""


@dataclass(frozen=True)
class TwoTowers(ModelBuilder):
    """What architectures of two towers have in common. `image` is built as it would be alone, so it has the same
    preprocessing, default size and published weights."""

    image: Annotated[str, Field(description="image backbone: a name that `fedlens models` lists, or timm:…")] = "lenet"
    text: Annotated[
        Literal["transformer", "minilm"],
        Field(description="transformer: small, trained from scratch; minilm: features of a frozen sentence encoder"),
    ] = "transformer"
    width: Annotated[int, Field(ge=8, le=1024, multiple_of=8, description="features of each of both")] = 128
    max_tokens: Annotated[int, Field(ge=1, le=512, description="length of a text in tokens; the rest is cut")] = 32

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

    def image_network(self, request: ModelRequest) -> tuple[nn.Module, int, Preprocessing]:
        """The image backbone, the number of its features, and how it wants its images."""
        alone = self._image_builder().build(request)
        return alone.backbone, cast(nn.Linear, alone.head).in_features, alone.preprocessing

    def text_network(self) -> tuple[nn.Module, int]:
        """What makes features of texts as the reader gives them, and their number. A frozen encoder gives features
        already."""
        if self.text == "minilm":
            return nn.Identity(), SENTENCE_FEATURES
        return TextTransformer(Tokens(self.max_tokens).vocabulary, self.max_tokens, self.width), self.width

    def _image_builder(self) -> ModelBuilder:
        return builder_named(self.image)


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
