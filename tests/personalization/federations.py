"""Whole federations of clients that see different classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tests.helpers import Memory, infos, tiny_trainer

from fedlens.core.records import RoundRecord
from fedlens.data.types import ClientRows, DataReport, FederatedData
from fedlens.federation.bookkeeping import Bookkeeping
from fedlens.federation.checkpoints import Checkpoint, Checkpoints
from fedlens.federation.coordinator import Coordinator, RunPlan
from fedlens.federation.evaluator import FederatedEvaluator
from fedlens.personalization.base import personalizations
from fedlens.runtimes.in_process import InProcessRuntime
from fedlens.strategies.base import ServerState
from fedlens.strategies.fedavg import FedAvg
from fedlens.training.algorithm import Algorithm
from fedlens.training.client import ClientTrainer
from fedlens.training.settings import LocalSettings

SETTINGS = LocalSettings(batch_size=4)
FEW_STEPS = {"fedrep": {"head_epochs": 3}, "pfedme": {"lam": 2.0, "personal_lr": 0.05}}
"""Parameters that suit a few rounds over a handful of images."""


def algorithm(name: str) -> Algorithm:
    return Algorithm(FedAvg(), personalizations.get(name).build(FEW_STEPS.get(name, {})))


def skewed(clients: int = 6, seed: int = 0) -> FederatedData:
    """Noisy 8×8 images with a faintly bright column for their class; four of five of a client's are of one class. Each
    client has 12 to train on, 4 for validation, 24 to test."""
    rng = np.random.default_rng(seed)
    labels = np.array([(own + (rng.random() > 0.8)) % 3 for own in range(clients) for _ in range(40)])
    images = rng.integers(0, 200, (len(labels), 8, 8, 1), dtype=np.uint8)
    for row, label in enumerate(labels):
        images[row, :, 2 * label + 1] += 25
    rows = np.arange(len(labels)).reshape(clients, -1)
    return FederatedData(
        torch.from_numpy(images),
        torch.from_numpy(labels.astype(np.int64)),
        tuple("abc"),
        tuple(ClientRows(f"client{index}", own[:12], own[12:16], own[16:]) for index, own in enumerate(rows)),
        np.empty(0, np.int64),
        DataReport(len(labels)),
        f"skewed-{clients}-{seed}",
    )


def beginning(trainer: ClientTrainer) -> Checkpoint:
    shared = {name: value for name, value in trainer.model.state().items() if name in trainer.shared}
    return Checkpoint(0, ServerState(shared))


def federate(
    folder: Path, name: str, data: FederatedData, plan: RunPlan, start: Checkpoint | None = None
) -> tuple[Checkpoint, list[RoundRecord]]:
    """Rounds of FedAvg with the personalisation `name`, validated by the clients; gives the end and the records."""
    trainer = tiny_trainer(algorithm(name), data, folder / "clients", SETTINGS)
    runtime, memory = InProcessRuntime(infos(data), lambda: trainer), Memory()
    survey = FederatedEvaluator(runtime, ("val",), plan.lr)
    books = Bookkeeping([memory], Checkpoints(folder / "checkpoints"))
    trained = trainer.model.trainable & trainer.shared
    try:
        coordinator = Coordinator(
            plan,
            FedAvg(),
            runtime,
            trained,
            books,
            lambda _ctx, _kept: trainer.partial_sum(0, {}),
            validation=lambda checkpoint: survey("val", checkpoint),
        )
        return coordinator.run(start or beginning(trainer)), memory.records
    finally:
        books.close()
