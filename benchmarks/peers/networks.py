"""The networks that the contenders train. `textbook`: in the order of layers that most people write."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CLASSES = 10


class Repeat(nn.Module):
    """(B, 1, S, S) grey → (B, 3, S, S), as networks made for colour need it."""

    def forward(self, images: Tensor) -> Tensor:
        return images.expand(-1, 3, -1, -1)


def pool_and_cut(textbook: bool) -> list[nn.Module]:
    """Pooling and ReLU. Both orders give the same numbers; FedLens' networks cut after pooling, a quarter as many."""
    return [nn.ReLU(), nn.MaxPool2d(2)] if textbook else [nn.MaxPool2d(2), nn.ReLU(inplace=True)]


def lenet(textbook: bool) -> nn.Module:
    """The LeNet-like network of NIID-Bench (Li et al. 2022): 44,426 parameters at 28 pixels."""
    convolutions = [nn.Conv2d(1, 6, 5), *pool_and_cut(textbook), nn.Conv2d(6, 16, 5), *pool_and_cut(textbook)]
    dense = [nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, CLASSES)]
    return nn.Sequential(*convolutions, nn.Flatten(), *dense)


def cnn(textbook: bool) -> nn.Module:
    """The network of two convolutions of McMahan et al. 2017: 1,663,370 parameters at 28 pixels."""
    first, second = nn.Conv2d(1, 32, 5, padding=2), nn.Conv2d(32, 64, 5, padding=2)
    convolutions = [first, *pool_and_cut(textbook), second, *pool_and_cut(textbook)]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, CLASSES))


def mobilenetv3(textbook: bool) -> nn.Module:
    """torchvision's MobileNetV3-small with a head of ten classes, untrained: 1,528,106 parameters."""
    from torchvision.models import mobilenet_v3_small

    return nn.Sequential(Repeat(), mobilenet_v3_small(weights=None, num_classes=CLASSES))


def simple_cnn(textbook: bool) -> nn.Sequential:
    """The network of pfl-research's CIFAR-10 benchmark: 1,626,442 parameters at 32 pixels."""
    convolutions = [nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), *pool_and_cut(textbook)]
    dense = [nn.Flatten(), nn.Linear(64 * 14 * 14, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, CLASSES)]
    return nn.Sequential(*convolutions, nn.Dropout(0.25), *dense)


def resnet18(textbook: bool) -> nn.Module:
    """torchvision's ResNet-18 with a head of ten classes, as BlazeFL's benchmark has it: 11,181,642 parameters."""
    from torchvision.models import resnet18 as untrained

    network: nn.Module = untrained(num_classes=CLASSES)
    return network


def channels_last(network: nn.Module) -> nn.Module:
    """The network with its convolutions' weights in the layout that is faster on CPUs."""
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network
