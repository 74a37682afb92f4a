"""What every contender trains: the same images, clients, model and optimizer settings.

The images are dealt out in equal shares (iid). Pixels are only divided by 255, and images of another side are resized,
once, before any timing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import networks
import numpy as np
import pictures
import torch
from torch import Tensor, nn

Client = tuple[Tensor, Tensor]
"""float32 (N, C, side, side) images in [0, 1] and int64 (N,) labels."""


@dataclass(frozen=True)
class Workload:
    """One comparison. `source`: gives so many images; `side` in pixels; every client holds `images` of them.

    By default the peers get the network exactly as FedLens trains it, channels-last included. `textbook` gives them
    what most people write: PyTorch's default memory layout, and ReLU before pooling. `config`: whose configuration
    FedLens takes, if not the workload's own. `least`: it only shows that the contenders run, and no figures are kept.
    """

    name: str
    model: Callable[[bool], nn.Module]
    images: int
    source: Callable[[int], pictures.Pictures] = pictures.fashion_mnist
    side: int = 28
    textbook: bool = False
    config: str = ""
    least: bool = False
    clients: int = 100
    cohort: int = 10
    epochs: int = 1
    batch: int = 32
    lr: float = 0.01
    momentum: float = 0.9

    @property
    def steps(self) -> int:
        """Gradient steps of a cohort in one round."""
        return self.cohort * self.epochs * -(-self.images // self.batch)

    def build(self, device: str = "cpu") -> nn.Module:
        """The untrained model, from seed 0."""
        torch.manual_seed(0)
        network = self.model(self.textbook)
        return (network if self.textbook else networks.channels_last(network)).to(device)


FASHION_MNIST = (
    Workload("lenet", networks.lenet, images=600),
    Workload("cnn", networks.cnn, images=600),
    Workload("mobilenetv3", networks.mobilenetv3, images=96, side=96),
)
COLOUR = Workload("", networks.resnet18, images=500, source=pictures.made, side=32, lr=0.1, momentum=0)
CIFAR = replace(COLOUR, name="cifar", model=networks.simple_cnn, images=50, clients=1000, cohort=50, batch=10)
RESNET18 = replace(COLOUR, name="resnet18", cohort=100, epochs=5, batch=50)
RESNET18_PART = replace(RESNET18, name="resnet18-part", config="resnet18", cohort=12)
BASIC = (*FASHION_MNIST, CIFAR, RESNET18, RESNET18_PART)
TEXTBOOK = tuple(
    replace(workload, name=f"{workload.name}-textbook", config=workload.config or workload.name, textbook=True)
    for workload in BASIC
)
LEAST = (
    Workload("small", networks.lenet, images=500, source=pictures.excerpt, least=True, clients=10, cohort=2),
    replace(CIFAR, name="cifar-small", config="cifar", least=True, clients=8, cohort=4),
    replace(RESNET18, name="resnet18-small", config="resnet18", least=True, images=20, clients=4, cohort=2, batch=10),
)
WORKLOADS = {workload.name: workload for workload in (*BASIC, *TEXTBOOK, *LEAST)}


def everybody(workload: Workload, device: str = "cpu") -> Client:
    """The images and labels of all clients, one client's after another's, in the device's memory."""
    pixels, labels = workload.source(workload.clients * workload.images)
    images = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float().div_(255)
    images = images.contiguous() if workload.textbook else images
    if workload.side != images.shape[-1]:
        images = nn.functional.interpolate(images, size=workload.side, mode="bilinear", antialias=True)
    return images, torch.from_numpy(labels.astype(np.int64)).to(device)


def clients(workload: Workload, device: str = "cpu") -> list[Client]:
    """Every client's images and labels."""
    return list(zip(*(tensor.split(workload.images) for tensor in everybody(workload, device)), strict=True))


def batches(client: Client, workload: Workload) -> Iterator[Client]:
    """A client's batches of one round, shuffled in every local epoch."""
    images, labels = client
    for _ in range(workload.epochs):
        for rows in torch.randperm(len(labels), device=labels.device).split(workload.batch):
            yield images[rows], labels[rows]


def finished(device: str) -> None:
    """Wait until a GPU has done all it was asked for, as the end of a round is."""
    if device == "cuda":
        torch.cuda.synchronize()
