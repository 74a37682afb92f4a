"""The LeNet of NIID-Bench: Li, Diao, Chen, He, "Federated Learning on Non-IID Data Silos", ICDE 2022.

44,426 parameters on 28 × 28 grey images of ten classes. Pixels are only divided by 255.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedlens.errors import ModelError
from fedlens.models.base import ModelBuilder, ModelRequest, Preprocessing, Recognizer, models

SMALLEST = 16
"""Minimum side in pixels, which leaves one position after both convolutions and poolings."""


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
        how = Preprocessing(request.image_size, request.image_channels)
        return Recognizer(Layers(request.image_channels, side), nn.Linear(84, request.num_classes), how)


class Layers(nn.Module):
    """All layers but the output. Uses function calls, because module overhead is noticeable in a network this small."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.dense1 = nn.Linear(16 * side * side, 120)
        self.dense2 = nn.Linear(120, 84)

    def forward(self, images: Tensor) -> Tensor:
        # ReLU follows the pooling: max and ReLU commute, and after pooling there are a quarter as many values.
        values = torch.relu_(torch.max_pool2d(self.conv1(images), 2))
        values = torch.relu_(torch.max_pool2d(self.conv2(values), 2)).flatten(1)
        return torch.relu_(self.dense2(torch.relu_(self.dense1(values))))
