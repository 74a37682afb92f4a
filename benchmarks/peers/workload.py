"""What every contender trains: the same images, clients, model and optimizer settings.

Fashion-MNIST's 60,000 training images are shuffled with seed 0 and dealt out in equal shares (iid). Pixels are
only divided by 255. Images of another side than 28 are resized once, before any timing.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

EXCERPT = Path(__file__).parents[2] / "src" / "fedlens" / "data" / "sample" / "fashion_mnist_excerpt.npz"

Client = tuple[Tensor, Tensor]
"""float32 (N, 1, side, side) images in [0, 1] and int64 (N,) labels."""


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
    dense = [nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)]
    return nn.Sequential(*convolutions, nn.Flatten(), *dense)


def cnn(textbook: bool) -> nn.Module:
    """The network of two convolutions of McMahan et al. 2017: 1,663,370 parameters at 28 pixels."""
    first, second = nn.Conv2d(1, 32, 5, padding=2), nn.Conv2d(32, 64, 5, padding=2)
    convolutions = [first, *pool_and_cut(textbook), second, *pool_and_cut(textbook)]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 10))


def mobilenetv3(textbook: bool) -> nn.Module:
    """torchvision's MobileNetV3-small with a head of ten classes, untrained: 1,528,106 parameters."""
    from torchvision.models import mobilenet_v3_small

    return nn.Sequential(Repeat(), mobilenet_v3_small(weights=None, num_classes=10))


def channels_last(network: nn.Module) -> nn.Module:
    """The network with its convolutions' weights in the layout that is faster on CPUs."""
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


@dataclass(frozen=True)
class Workload:
    """One comparison. `side` in pixels; every client holds `images` of them.

    By default the peers get the network exactly as FedLens trains it, channels-last included. `textbook` gives them
    what most people write: PyTorch's default memory layout, and ReLU before pooling. `sample`: the images are the
    excerpt that ships with FedLens.
    """

    name: str
    model: Callable[[bool], nn.Module]
    images: int
    side: int = 28
    textbook: bool = False
    sample: bool = False
    clients: int = 100
    cohort: int = 10
    batch: int = 32
    lr: float = 0.01
    momentum: float = 0.9

    @property
    def steps(self) -> int:
        """Gradient steps of a cohort in one round of one local epoch."""
        return self.cohort * -(-self.images // self.batch)

    def build(self) -> nn.Module:
        """The untrained model, from seed 0."""
        torch.manual_seed(0)
        network = self.model(self.textbook)
        return network if self.textbook else channels_last(network)


BASIC = (
    Workload("lenet", lenet, images=600),
    Workload("cnn", cnn, images=600),
    Workload("mobilenetv3", mobilenetv3, images=96, side=96),
)
TEXTBOOK = tuple(replace(workload, name=f"{workload.name}-textbook", textbook=True) for workload in BASIC)
SMALL = Workload("small", lenet, images=500, clients=10, cohort=2, sample=True)
WORKLOADS = {workload.name: workload for workload in (*BASIC, *TEXTBOOK, SMALL)}


def clients(workload: Workload) -> list[Client]:
    """Every client's images and labels, in memory."""
    pixels, labels = excerpt() if workload.sample else fashion_mnist()
    order = np.random.default_rng(0).permutation(len(labels))[: workload.clients * workload.images]
    images = torch.from_numpy(pixels[order]).unsqueeze(1).float().div_(255)
    if workload.side != images.shape[-1]:
        images = nn.functional.interpolate(images, size=workload.side, mode="bilinear", antialias=True)
    targets = torch.from_numpy(labels[order].astype(np.int64))
    return list(zip(images.split(workload.images), targets.split(workload.images), strict=True))


def excerpt() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """uint8 (5000, 28, 28) training images and uint8 (5000,) labels of FedLens' sample."""
    with np.load(EXCERPT, allow_pickle=False) as kept:
        train = kept["clients"] != ""
        return kept["images"][train], kept["labels"][train]


def fashion_mnist() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """uint8 (60000, 28, 28) training images and uint8 (60000,) labels.

    From `FASHION_MNIST`, by default where the Debian package `dataset-fashion-mnist` puts them.
    """
    folder = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
    images = np.frombuffer(gzip.decompress((folder / "train-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((folder / "train-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    return images.reshape(-1, 28, 28), labels
