"""MobileNetV3-small on folders of pictures, in plain PyTorch: one epoch of batches of 32."""

from __future__ import annotations

from typing import Any

import torch
from flwr.app import ArrayRecord
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import mobilenet_v3_small
from torchvision.transforms import v2

PIXELS = 64
CLASSES = 10


def network() -> nn.Module:
    """The untrained model, from seed 0."""
    torch.manual_seed(0)
    network: nn.Module = mobilenet_v3_small(weights=None, num_classes=CLASSES)
    return network


def loader(folder: str) -> DataLoader[Any]:
    """Shuffled batches of the pictures in `folder`/<class>/."""
    look = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize(PIXELS, antialias=True),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    return DataLoader(ImageFolder(folder, look), batch_size=32, shuffle=True)


def trained(arrays: ArrayRecord, folder: str) -> tuple[ArrayRecord, float, int]:
    """The arrays after one epoch, its mean loss, and the number of pictures."""
    model, batches, count = network(), loader(folder), 0
    model.load_state_dict(arrays.to_torch_state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    losses = []
    for images, labels in batches:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        count += len(labels)
    return ArrayRecord(model.state_dict()), sum(losses) / len(losses), count
