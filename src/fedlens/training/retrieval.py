"""How well a dual encoder finds the text of an image, and the image of a text."""

from __future__ import annotations

from collections.abc import Mapping
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


@torch.inference_mode()
def recalls(
    model: DualEncoder, examples: Examples, *, precision: Precision = "fp32", batch_size: int | None = None
) -> Mapping[str, float]:
    """Recall at 1, 5 and 10 in both directions over all `examples`, complete rows: the share of images for which one of
    the first k texts is theirs, and the share of texts for which one of the first k images shows them. Rows with equal
    texts are right for each other."""
    model.eval()
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for inputs, _ in examples.once(batch_size or EVALUATION_BATCH):
        batch = cast("TensorDict", inputs)
        with autocast(precision, examples.device):
            image, text, _ = model.backbone.apart(batch)
        parts.append((image, text, batch["text"]))
    images, texts, read = (torch.cat(found) for found in zip(*parts, strict=True))
    same = read.unique(dim=0, return_inverse=True)[1]
    places = {"image_to_text": places_of_own(images, texts, same), "text_to_image": places_of_own(texts, images, same)}
    return {
        f"retrieval/{way}_at_{depth}": float((place < depth).float().mean())
        for way, place in places.items()
        for depth in DEPTHS
    }


def places_of_own(queries: Tensor, candidates: Tensor, same: Tensor) -> Tensor:
    """(N,) how many wrong candidates are at least as near to a query as the nearest right one, from 0. A model that
    gives everything the same features finds nothing.

    queries, candidates  (N, D), each of length 1
    same                 (N,) numbers: a candidate is right for the queries with its number
    """
    places = []
    for rows, numbers in zip(queries.split(EVALUATION_BATCH), same.split(EVALUATION_BATCH), strict=True):
        likeness = rows @ candidates.T
        right = numbers[:, None] == same[None, :]
        best = likeness.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
        places.append((~(likeness < best) & ~right).sum(1))  # what is no number is found nowhere
    return torch.cat(places)
