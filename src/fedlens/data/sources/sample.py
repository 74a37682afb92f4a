"""The sample that ships with FedLens: 6,000 images of Fashion-MNIST, chosen by tools/build_sample.py, and for each a
synthetic text (`data.product_texts`)."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from fedlens.data.base import Source, sources
from fedlens.data.product_texts import product_texts
from fedlens.data.sources.fashion_mnist import CLASS_NAMES
from fedlens.data.types import ImageTable


@sources.register(
    "sample", summary="ships with FedLens: 5,000 + 1,000 pictures of clothes in ten shops of different stock"
)
@dataclass(frozen=True)
class Sample(Source):
    """5,000 training images in ten shops of 264 to 770, and 1,000 test images, 100 per class. The images are real; a
    generator made a text for each, in the manner of a shop's listing: nobody wrote it for the picture."""

    def load(self) -> ImageTable:
        """Read the images from the package, and make the texts."""
        packed = files("fedlens.data").joinpath("sample", "fashion_mnist_excerpt.npz")
        with packed.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            images, labels, clients = arrays["images"], arrays["labels"].astype(np.int64), arrays["clients"]
        return ImageTable(
            images=images[..., None],
            labels=labels,
            class_names=CLASS_NAMES,
            split=np.where(clients == "", "test", "train"),
            clients=clients,
            texts=product_texts(labels),
            channels=1,
            native_size=28,
        )
