"""The CNN of McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-Efficient Learning of Deep Networks
from Decentralized Data", AISTATS 2017, section 3: two 5 × 5 convolutions (32 and 64 channels, padded), each followed
by 2 × 2 max-pooling, a layer of 512, and the output: 1,663,370 parameters on 28 × 28 grey images of ten classes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from fedlens.errors import ModelError
from fedlens.models.base import ModelBuilder, ModelRequest, Preprocessing, Recognizer, models

SMALLEST = 4
"""Pixels a side that leave one position after both poolings."""


@models.register("cnn", summary="2-convolution CNN of McMahan et al. 2017, 1,663,370 parameters on 28 × 28")
@dataclass(frozen=True)
class Cnn(ModelBuilder):
    default_image_size = 28

    def build(self, request: ModelRequest) -> Recognizer:
        if request.pretrained:
            raise ModelError("model.name=cnn has no published weights: set model.pretrained=false")
        if request.image_size < SMALLEST:
            raise ModelError(f"model.name=cnn needs data.image_size of {SMALLEST} or more, not {request.image_size}")
        side = request.image_size // 4
        # ReLU after the pooling gives the same numbers on a quarter as many values (see lenet.py).
        backbone = nn.Sequential(
            nn.Conv2d(request.image_channels, 32, 5, padding=2),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 64, 5, padding=2),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(64 * side * side, 512),
            nn.ReLU(inplace=True),
        )
        how = Preprocessing(request.image_size, request.image_channels)
        return Recognizer(backbone, nn.Linear(512, request.num_classes), how)
