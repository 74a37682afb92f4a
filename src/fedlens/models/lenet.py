"""The LeNet of NIID-Bench: Li, Diao, Chen, He, "Federated Learning on Non-IID Data Silos", ICDE 2022.

44,426 parameters on 28 × 28 grey images of ten classes. Pixels are divided by 255 and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

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
        how = Preprocessing(request.image_size, request.image_channels)
        return Recognizer(Layers(request.image_channels, side), nn.Linear(84, request.num_classes), how)


class Layers(nn.Module):
    """All but the output. Plain function calls: in a network this small, modules show in the time."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.dense1 = nn.Linear(16 * side * side, 120)
        self.dense2 = nn.Linear(120, 84)

    def forward(self, images: Tensor) -> Tensor:
        # ReLU stands after the pooling: both orders give the same numbers, as the largest of values cut at zero is
        # the largest value cut at zero, and this one cuts a quarter as many.
        values = torch.relu_(torch.max_pool2d(self.conv1(images), 2))
        values = torch.relu_(torch.max_pool2d(self.conv2(values), 2)).flatten(1)
        return torch.relu_(self.dense2(torch.relu_(self.dense1(values))))
