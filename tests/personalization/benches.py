"""A client's bench small enough for sums on paper: one image of one number, of class 0 of two."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
from tests.helpers import CPU
from torch import nn

from fedlens.data.types import ClientRows, DataReport, FederatedData
from fedlens.models.base import Preprocessing, prepare
from fedlens.training.context import ResidentTrainingContext
from fedlens.training.examples import Examples
from fedlens.training.flat import FlatModel
from fedlens.training.optimizers.base import VectorOptimizer
from fedlens.training.optimizers.sgd import SGD
from fedlens.training.sections import MemorySection
from fedlens.training.settings import LocalSettings

Pair = tuple[float, float]


class Single(nn.Module):
    """x → (a x, b x)."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 2, bias=False)

    def forward(self, inputs):
        return self.head(inputs)


class Double(nn.Module):
    """x → (a c x, b c x): a body c of one number below the head (a, b)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(1, 1, bias=False)
        self.head = nn.Linear(1, 2, bias=False)

    def forward(self, inputs):
        return self.head(self.body(inputs))


def bench(
    module: nn.Module, *values: float, kept=None, epochs: int = 1, lr: float = 0.5, momentum: float = 0
) -> ResidentTrainingContext:
    """A bench whose received parameters are `values`, in their order."""
    model = FlatModel(module, CPU, channels_last=False)
    model.vector.copy_(torch.tensor(values))
    rows = np.array([0])
    data = FederatedData(
        torch.ones(1, 1), torch.zeros(1, dtype=torch.int64), ("a", "b"), (ClientRows("c", rows, rows, rows),),
        rows, DataReport(1), "one",
    )  # fmt: skip
    settings = LocalSettings(epochs, 4, SGD(momentum=momentum), memory=MemorySection(channels_last=False))
    inputs = partial(prepare, how=Preprocessing(1, 1))
    examples = Examples(data, rows, inputs, CPU, channels_last=False)
    optimizer = VectorOptimizer(settings.optimizer, {})
    generator = torch.Generator().manual_seed(0)
    return ResidentTrainingContext(
        model, settings, examples, optimizer, generator,
        round_number=1, client="c", lr=lr, kept=kept or {},
    )  # fmt: skip


def slope(pair: Pair, scale: float = 1.0) -> Pair:
    """∇ of the cross-entropy −log p₀ of `Single` by (a, b), times the input's scale: (p₀ − 1, p₁)."""
    p1 = 1 / (1 + math.exp(scale * (pair[0] - pair[1])))
    return -p1 * scale, p1 * scale


def step(pair: Pair, gradient: Pair, lr: float) -> Pair:
    return pair[0] - lr * gradient[0], pair[1] - lr * gradient[1]


def plus(one: Pair, other: Pair, factor: float = 1.0) -> Pair:
    return one[0] + factor * other[0], one[1] + factor * other[1]


def stands(home: ResidentTrainingContext) -> list[float]:
    """The parameters as they stand."""
    return home.vector.tolist()
