"""The CNN of McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-Efficient Learning of Deep Networks
from Decentralized Data", AISTATS 2017, section 3: two 5 × 5 convolutions (32 and 64 channels, padded), each followed
by 2 × 2 max-pooling, a layer of 512, and the output: 1,663,370 parameters on 28 × 28 grey images of ten classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import nn

from fedlens.errors import ModelError
from fedlens.models.base import ModelBuilder, ModelRequest, Preprocessing, Recognizer, models

SMALLEST = {True: 4, False: 16}
"""Minimum side in pixels, which leaves one position after both poolings, by whether the convolutions are padded."""


@models.register("cnn", summary="2-convolution CNN of McMahan et al. 2017, 1,663,370 parameters on 28 × 28")
@dataclass(frozen=True)
class Cnn(ModelBuilder):
    """Without padding it is the CNN of PFLlib (https://github.com/TsingZ0/PFLlib), 582,026 parameters on 28 × 28."""

    padded: Annotated[bool, Field(description="convolutions keep the image's size, as in the paper")] = True

    default_image_size = 28

    def build(self, request: ModelRequest) -> Recognizer:
        if request.pretrained:
            raise ModelError("model.name=cnn has no published weights: set model.pretrained=false")
        smallest, padding = SMALLEST[self.padded], 2 if self.padded else 0
        if request.image_size < smallest:
            raise ModelError(f"model.name=cnn needs data.image_size of {smallest} or more, not {request.image_size}")
        lost = 4 - 2 * padding
        side = ((request.image_size - lost) // 2 - lost) // 2
        # ReLU after the pooling gives the same values with a quarter of the work (see lenet.py).
        backbone = nn.Sequential(
            nn.Conv2d(request.image_channels, 32, 5, padding=padding),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 64, 5, padding=padding),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(64 * side * side, 512),
            nn.ReLU(inplace=True),
        )
        how = Preprocessing(request.image_size, request.image_channels)
        return Recognizer(backbone, nn.Linear(512, request.num_classes), how)
