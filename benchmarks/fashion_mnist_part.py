"""A plugin: some rows of Fashion-MNIST, so that a slow model's rounds stay short."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fedlens.data.base import Source, sources
from fedlens.data.export import take
from fedlens.data.types import ImageTable, Rows


@sources.register("fashion_mnist_part", summary="some rows of Fashion-MNIST: benchmarks of slow models")
@dataclass(frozen=True)
class FashionMnistPart(Source):
    """`rows` training images, and a tenth as many test images, of `whole`: fashion_mnist, or sample."""

    rows: int
    whole: str = "fashion_mnist"

    def load(self) -> ImageTable:
        table = sources.get(self.whole).build({}).load()
        assert table.split is not None
        train, test = np.flatnonzero(table.split == "train"), np.flatnonzero(table.split == "test")
        kept = np.concatenate([spread(train, self.rows), spread(test, self.rows // 10)])
        return replace(take(table, np.sort(kept)), clients=None)


def spread(rows: Rows, count: int) -> Rows:
    """So many of the rows, at equal distances: the sample's are ordered by shop."""
    spaced: Rows = rows[np.linspace(0, len(rows) - 1, count).astype(int)]
    return spaced
