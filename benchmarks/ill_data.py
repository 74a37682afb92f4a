"""Images with something wrong on purpose, for `benchmarks/explain.py`: a plugin with one source.

The images are those of the sample that ships with FedLens, or scikit-learn's digits (1,797 of 8 × 8 pixels, 10 classes,
BSD licence), dealt out to clients at random.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedlens.data.base import Source, sources
from fedlens.data.sources.sample import Sample
from fedlens.data.types import ImageTable

TEST = 600
"""Images that are held out from all clients."""


@sources.register("ill", summary="images with something wrong on purpose")
@dataclass(frozen=True)
class Ill(Source):
    """Half of the images are for training, in equal parts, at random; of the others 600 are the global test."""

    of: Literal["sample", "digits"] = "sample"
    clients: Annotated[int, Field(ge=2, description="that the training images are dealt out to")] = 10
    seed: int = 0
    train: Annotated[int | None, Field(description="training images; default: half")] = None
    inverted: Annotated[float, Field(description="share of the clients with negatives")] = 0.0
    mislabelled: Annotated[float, Field(description="share of the clients whose labels are drawn at random")] = 0.0
    rare: Annotated[int, Field(description="classes that lose nearly all of their training images")] = 0

    def load(self) -> ImageTable:
        images, labels, names = read(self.of)
        rng = np.random.default_rng(self.seed)
        order = rng.permutation(len(labels))
        images, labels = images[order], labels[order].copy()
        train = min(self.train or len(labels) // 2, len(labels) // 2)
        test = np.arange(len(labels) // 2, len(labels))[:TEST]
        kept = [row for row in range(train) if labels[row] >= self.rare or row % 50 == 0]
        owners = np.array([f"client{1 + number % self.clients}" for number in range(len(kept))])
        for client in self._first(self.inverted):
            mine = np.array(kept)[owners == client]
            images[mine] = 255 - images[mine]
        for client in self._first(self.mislabelled):
            mine = np.array(kept)[owners == client]
            labels[mine] = rng.integers(0, len(names), len(mine))
        rows = np.array([*kept, *test])
        return ImageTable(
            images[rows][..., None],
            labels[rows],
            names,
            split=np.array(["train"] * len(kept) + ["test"] * len(test)),
            clients=np.concatenate([owners, np.full(len(test), "")]),
            channels=1,
            native_size=images.shape[1],
        )

    def _first(self, share: float) -> list[str]:
        return [f"client{1 + number}" for number in range(round(share * self.clients))]


def read(name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
    """(images (N, H, W), labels, class names)."""
    if name == "sample":
        table = Sample().load()
        return np.asarray(table.images)[..., 0], table.labels, table.class_names
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = (digits.images * 255 / 16).astype(np.uint8)
    return np.stack([cv2.resize(image, (28, 28)) for image in grey]), digits.target, tuple("0123456789")
