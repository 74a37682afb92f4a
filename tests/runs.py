"""Small experiments through the public API, with models and data of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import fedlens
from fedlens.core.types import ClientFailure, ClientResult
from fedlens.training.client import ClientTrainer

QUICK = (
    "model.name=lenet",
    "optimizer.lr=0.05",
    "federated.num_rounds=3",
    "federated.fraction_fit=0.3",
    "federated.evaluate_clients_every=2",
    "tracking.tensorboard=false",
    "tracking.report=false",
)


def run(tmp_path: Path, *overrides: str, config=None, **given) -> fedlens.Run:
    quick = QUICK[1:] if "model" in given else QUICK  # a model that is given has no name
    return fedlens.run(config, *quick, f"tracking.dir={tmp_path}", *overrides, show=False, **given)


@contextmanager
def recorded() -> Iterator[list[ClientResult | ClientFailure]]:
    """What clients of in-process runs inside send, in order."""
    sent: list[ClientResult | ClientFailure] = []
    run_task = ClientTrainer.run_on_device

    def running(trainer: ClientTrainer, *given) -> ClientResult | ClientFailure:
        sent.append(outcome := run_task(trainer, *given))
        return outcome

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClientTrainer, "run_on_device", running)
        yield sent


class Clothes(nn.Module):
    """A user's own module: no FedLens in it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def separable(count: int, seed: int = 0) -> TensorDataset:
    """8×8 float images that are bright in the column of their class."""
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(rng.integers(0, 3, count))
    images = torch.from_numpy(rng.random((count, 1, 8, 8), dtype=np.float32))
    images[torch.arange(count), 0, :, labels] += 2
    return TensorDataset(images, labels)


def numbers(count: int, broken: bool = False) -> TensorDataset:
    """Float images (1, 16, 16) of three classes; every image holds a NaN when `broken`."""
    generator = torch.Generator().manual_seed(count)
    labels = torch.arange(count) % 3
    images = torch.rand(count, 1, 16, 16, generator=generator) + labels[:, None, None, None]
    if broken:
        images[:, 0, 3, 3] = torch.nan
    return TensorDataset(images, labels)
