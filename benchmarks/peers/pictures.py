"""The images that the contenders train on: uint8 (N, H, W, C) pixels and uint8 (N,) labels."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
from networks import CLASSES
from numpy.typing import NDArray

EXCERPT = Path(__file__).parents[2] / "src" / "fedlens" / "data" / "sample" / "fashion_mnist_excerpt.npz"

Pictures = tuple[NDArray[np.uint8], NDArray[np.uint8]]

SIDE = 32
"""Pixels of a made image's side, as CIFAR-10's."""


def made(count: int, seed: int = 0) -> Pictures:
    """Colour images in CIFAR-10's shape that need no data set: a coarse picture of the class, below noise."""
    classes = np.random.default_rng(0).integers(128, size=(CLASSES, 4, 4, 3), dtype=np.uint8)
    classes = classes.repeat(SIDE // 4, axis=1).repeat(SIDE // 4, axis=2)
    random = np.random.default_rng([seed, count])
    labels = random.integers(CLASSES, size=count, dtype=np.uint8)
    return classes[labels] + random.integers(128, size=(count, SIDE, SIDE, 3), dtype=np.uint8), labels


def excerpt(count: int) -> Pictures:
    """Of the 5,000 training images of FedLens' sample."""
    with np.load(EXCERPT, allow_pickle=False) as kept:
        train = kept["clients"] != ""
        return shuffled(kept["images"][train], kept["labels"][train], count)


def fashion_mnist(count: int) -> Pictures:
    """Of the 60,000 training images.

    From `FASHION_MNIST`, by default where the Debian package `dataset-fashion-mnist` puts them.
    """
    folder = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
    images = np.frombuffer(gzip.decompress((folder / "train-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((folder / "train-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    return shuffled(images.reshape(-1, 28, 28), labels, count)


def shuffled(images: NDArray[np.uint8], labels: NDArray[np.uint8], count: int) -> Pictures:
    """So many of the grey images (N, H, W), in an order drawn with seed 0."""
    order = np.random.default_rng(0).permutation(len(labels))[:count]
    return images[order][..., np.newaxis], labels[order]
