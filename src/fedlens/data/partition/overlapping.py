"""Clients that may hold the same images, for more clients than the images are enough for.

pfl-research makes its artificial users so, by drawing from one data set (`ArtificialFederatedDataset`; Granqvist et al.
2024, https://arxiv.org/abs/2404.06430).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedlens.core.limits import Number
from fedlens.data.base import Scheme, ToPartition, schemes
from fedlens.data.partition.cutting import named
from fedlens.errors import DataError


@schemes.register("overlapping", "each client draws its images from all: more clients than images would be enough for")
@dataclass(frozen=True)
class Overlapping(Scheme):
    """Each client draws images_per_client different images, whatever the others have: an image may be at several. It is
    in the same split at each of them, so nobody trains on another client's validation or test images."""

    overlaps: ClassVar[bool] = True
    images_per_client: Number = 20

    def assign(self, rows: ToPartition) -> dict[str, NDArray[np.int64]]:
        images, size = len(rows.labels), self.images_per_client
        if size > images:
            raise DataError(
                f"partition overlapping: images_per_client={size}, but there are {images} images to draw from. Lower "
                "data.partition.images_per_client."
            )
        rng = np.random.default_rng(rows.seed)
        return named(rng.choice(images, size, replace=False, shuffle=False) for _ in range(rows.clients))
