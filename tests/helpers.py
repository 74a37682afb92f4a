"""Small, quick stand-ins for tests: separable images and a model of a few parameters."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fedlens.aggregation.base import AggregatedUpdate, Aggregator
from fedlens.aggregation.mean import WeightedMean
from fedlens.build.runtimes import client_infos
from fedlens.core.client_store import ClientStore
from fedlens.core.records import RoundRecord
from fedlens.core.types import ClientInfo, State
from fedlens.data.types import ClientRows, DataReport, FederatedData
from fedlens.federation.rounds.synchronous import aggregate
from fedlens.models.base import Preprocessing, Recognizer, prepare
from fedlens.runtimes.base import Outcome
from fedlens.strategies.base import RoundContext, Strategy
from fedlens.training.algorithm import Algorithm
from fedlens.training.client import ClientTrainer
from fedlens.training.flat import FlatModel
from fedlens.training.settings import LocalSettings

CPU = torch.device("cpu")


class Memory:
    """A tracker that keeps everything."""

    def __init__(self) -> None:
        self.records: list[RoundRecord] = []

    def round(self, record: RoundRecord) -> None:
        self.records.append(record)

    def close(self) -> None: ...


def plain_mean(_ctx: RoundContext, _kept: State) -> Aggregator:
    """For a coordinator: the weighted mean, which keeps nothing."""
    return WeightedMean()


def combined(outcomes: Iterator[Outcome], aggregator: Aggregator) -> AggregatedUpdate | None:
    """The total of a cohort's outcomes."""
    aggregate(outcomes, aggregator)
    return aggregator.result()


def tiny_data(clients: int = 4, per_client: int = 12, classes: int = 3, seed: int = 0) -> FederatedData:
    """Grey 8×8 images whose bright column is their class; each client has 2 validation and 2 test rows besides."""
    rng = np.random.default_rng(seed)
    total = clients * (per_client + 4) + 12
    labels = np.arange(total) % classes
    images = rng.integers(0, 60, (total, 8, 8, 1), dtype=np.uint8)
    for row, label in enumerate(labels):
        images[row, :, 2 * label + 1] += 150
    rows = np.arange(clients * (per_client + 4)).reshape(clients, -1)
    return FederatedData(
        torch.from_numpy(images),
        torch.from_numpy(labels.astype(np.int64)),
        tuple("abcdefgh"[:classes]),
        tuple(ClientRows(f"client{index}", own[:-4], own[-4:-2], own[-2:]) for index, own in enumerate(rows)),
        np.arange(total - 12, total),
        DataReport(total),
        f"tiny-{clients}-{per_client}-{classes}-{seed}",
    )


def tiny_model(classes: int = 3, seed: int = 0) -> Recognizer:
    """A convolution, BatchNorm, and a head: every kind of tensor that travels."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d((1, 8)),
            nn.Flatten(),
        )
        return Recognizer(backbone, nn.Linear(32, classes), Preprocessing(8, 1))


def tiny_trainer(
    algorithm: Algorithm | Strategy, data: FederatedData, folder: Path, settings: LocalSettings
) -> ClientTrainer:
    """`algorithm`: a strategy alone stands for itself with the mean and one model for all."""
    algorithm = Algorithm(algorithm) if isinstance(algorithm, Strategy) else algorithm
    resident = FlatModel(tiny_model(len(data.class_names)), CPU)
    inputs = partial(prepare, how=Preprocessing(8, 1))
    return ClientTrainer(resident, data, algorithm, settings, ClientStore(folder), inputs)


def infos(data: FederatedData) -> list[ClientInfo]:
    return client_infos(data, CPU)
