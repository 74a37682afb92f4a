"""The LeNet of NIID-Bench: Li, Diao, Chen, He, "Federated Learning on Non-IID Data Silos", ICDE 2022.

44,426 parameters on 28 × 28 grey images of ten classes. Pixels are divided by 255 and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from fedlens.errors import ModelError
from fedlens.models.base import ModelBuilder, ModelRequest, Preprocessing, Recognizer, models

SMALLEST = 16
"""Pixels a side that leave one position after both convolutions and poolings."""


@models.register("lenet", summary="LeNet of NIID-Bench, 44,426 parameters on 28 × 28: research on small images")
@dataclass(frozen=True)
class LeNet(ModelBuilder):
    default_image_size = 28

    def build(self, request: ModelRequest) -> Recognizer:
        if request.pretrained:
            raise ModelError("model.name=lenet has no published weights: set model.pretrained=false")
        if request.image_size < SMALLEST:
            raise ModelError(f"model.name=lenet needs data.image_size of {SMALLEST} or more, not {request.image_size}")
        side = ((request.image_size - 4) // 2 - 4) // 2
        # ReLU stands after the pooling: both orders give the same numbers, as the largest of values cut at zero is
        # the largest value cut at zero, and this one cuts a quarter as many.
        backbone = nn.Sequential(
            nn.Conv2d(request.image_channels, 6, 5),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
            nn.Conv2d(6, 16, 5),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(16 * side * side, 120),
            nn.ReLU(inplace=True),
            nn.Linear(120, 84),
            nn.ReLU(inplace=True),
        )
        how = Preprocessing(request.image_size, request.image_channels)
        return Recognizer(backbone, nn.Linear(84, request.num_classes), how)
