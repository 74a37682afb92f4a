"""A plugin: the images and the network of `speed.py cifar` and `resnet18`, the same as the peers'."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from fedlens.data.base import Source, sources
from fedlens.data.types import ImageTable
from fedlens.models.base import ModelBuilder, ModelRequest, Preprocessing, Recognizer, models

sys.path.append(str(Path(__file__).with_name("peers")))
from networks import CLASSES, simple_cnn
from pictures import SIDE, made

TEST = 100


@sources.register("made_pictures", summary="made images in CIFAR-10's shape: benchmarks that need no data set")
@dataclass(frozen=True)
class MadePictures(Source):
    """`rows` training images, and a few test images of the same classes."""

    rows: int

    def load(self) -> ImageTable:
        (images, labels), (others, their_labels) = made(self.rows), made(TEST, seed=1)
        return ImageTable(
            np.concatenate([images, others]),
            np.concatenate([labels, their_labels]).astype(np.int64),
            tuple(map(str, range(CLASSES))),
            np.repeat(["train", "test"], [self.rows, TEST]),
            native_size=SIDE,
        )


@models.register("simple_cnn", summary="the network of pfl-research's CIFAR-10 benchmark")
@dataclass(frozen=True)
class SimpleCnn(ModelBuilder):
    default_image_size = SIDE

    def build(self, request: ModelRequest) -> Recognizer:
        *backbone, head = simple_cnn(textbook=False)
        return Recognizer(nn.Sequential(*backbone), head, Preprocessing(SIDE, 3))
