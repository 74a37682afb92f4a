"""How well a dual encoder finds the text of an image, and the image of a text; and which texts it finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from fedlens.models.dual_encoder import DualEncoder
from fedlens.training.evaluation import EVALUATION_BATCH
from fedlens.training.examples import Examples
from fedlens.training.precision import autocast
from fedlens.training.sections import Precision

if TYPE_CHECKING:
    from tensordict import TensorDict

DEPTHS = (1, 5, 10)


@dataclass(frozen=True)
class Encoded:
    """Features of complete rows.

    images, texts  (N, D), each of length 1
    same           (N,) numbers of the different texts: rows with equal texts have the same one
    """

    images: Tensor
    texts: Tensor
    same: Tensor


@dataclass(frozen=True)
class Neighbour:
    """A text that an image is compared with. place: from 1, the most similar."""

    text: int
    place: int
    similarity: float


@torch.inference_mode()
def encoded(
    model: DualEncoder, examples: Examples, *, precision: Precision = "fp32", batch_size: int | None = None
) -> Encoded:
    """The features of all `examples`, complete rows."""
    model.eval()
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for inputs, _ in examples.once(batch_size or EVALUATION_BATCH):
        batch = cast("TensorDict", inputs)
        with autocast(precision, examples.device):
            image, text, _ = model.backbone.apart(batch)
        parts.append((image, text, batch["text"]))
    images, texts, read = (torch.cat(found) for found in zip(*parts, strict=True))
    return Encoded(images, texts, read.unique(dim=0, return_inverse=True)[1])


def recalls(rows: Encoded) -> Mapping[str, float]:
    """Recall at 1, 5 and 10 in both directions: the share of images for which one of the first k texts is theirs, and
    the share of texts for which one of the first k images shows them. Rows with equal texts are right for each
    other."""
    places = {
        "image_to_text": places_of_own(rows.images, rows.texts, rows.same, rows.same),
        "text_to_image": places_of_own(rows.texts, rows.images, rows.same, rows.same),
    }
    return {
        f"retrieval/{way}_at_{depth}": float((place < depth).float().mean())
        for way, place in places.items()
        for depth in DEPTHS
    }


def places_of_own(queries: Tensor, candidates: Tensor, wanted: Tensor, numbers: Tensor) -> Tensor:
    """(N,) how many wrong candidates are at least as near to a query as the nearest right one, from 0. A model that
    gives everything the same features finds nothing.

    queries, candidates  (N, D) and (M, D), each of length 1
    wanted, numbers      (N,) and (M,): a candidate is right for the queries that want its number
    """
    places = []
    for rows, own in zip(queries.split(EVALUATION_BATCH), wanted.split(EVALUATION_BATCH), strict=True):
        likeness = rows @ candidates.T
        right = own[:, None] == numbers[None, :]
        best = likeness.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
        places.append((~(likeness < best) & ~right).sum(1))  # what is no number is found nowhere
    return torch.cat(places)


def nearest_texts(image: Tensor, texts: Tensor, own: int, count: int) -> list[Neighbour]:
    """The `count` nearest of different texts, and the image's own one if it is not among them. As `places_of_own`, its
    own text comes after others that are as near.

    image  (D,); texts  (M, D), each of length 1
    own    the number of the image's own text
    """
    likeness = (texts @ image).tolist()
    order = sorted(range(len(likeness)), key=lambda text: (-likeness[text], text == own))
    shown = {place: text for place, text in enumerate(order, start=1) if place <= count or text == own}
    return [Neighbour(text, place, likeness[text]) for place, text in shown.items()]
