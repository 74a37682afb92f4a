"""Run folders as a real run leaves them: written by the real writers, with numbers that are easy to follow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import yaml

from fedlens.build.runtimes import client_infos
from fedlens.core.records import ClientEvaluation, Evaluation, RoundRecord
from fedlens.core.types import ClientFailure, ClientReport, MeanMetric
from fedlens.data.types import ClientRows, DataReport, FederatedData
from fedlens.reports.compare import load_all, rows_of, write_comparison
from fedlens.tracking.metrics import MetricsFile
from fedlens.tracking.run_dir import RunDir

CLASSES = ("cat", "dog", "<script>window.broken=1</script>")
CLIENTS = ("north & south", "east", "west", "centre")


def evaluation(right: int, loss: float, majority: float | None = None) -> Evaluation:
    """30 images, 10 a class: `right` of each class are recognised, the others taken for the next class."""
    confusion = right * np.eye(3, dtype=np.int64) + (10 - right) * np.roll(np.eye(3, dtype=np.int64), 1, axis=1)
    return Evaluation(loss=loss, confusion=confusion, majority=majority)


def record(number: int, clients: bool = False) -> RoundRecord:
    """Round `number` (1–6): accuracy grows by 0.1 a round; validation loss is lowest in round 4."""
    reports = tuple(
        ClientReport(name, weight=20.0, metrics={"loss": MeanMetric(20 * (2.0 - 0.2 * number), 20)})
        for name in CLIENTS[:2]
    )
    return RoundRecord(
        round=number,
        lr=0.1 / number,
        reports=reports,
        failures=(ClientFailure("west", number, "the loss is NaN"),) if number == 2 else (),
        update_norm=1.0 / number,
        bytes_down=2_000_000,
        bytes_up=1_000_000,
        seconds={"broadcast": 0.1, "train": 2.0, "aggregate": 0.2, "evaluate": 0.5, "checkpoint": 0.2},
        test=evaluation(2 + number, 2.0 - 0.2 * number, majority=0.25),
        validation=evaluation(1 + number, 1.0 + abs(number - 4), majority=0.25),
        clients=client_evaluations() if clients else (),
        measures={"drift/mean": 3.0 / number},
        chance=1 / 3,
    )


def client_evaluations() -> tuple[ClientEvaluation, ...]:
    """Means over the three trained: accuracy (0.9 + 0.6 + 0.3) / 3 = 0.6; over images (9 + 12 + 21) / 100 = 0.42;
    the commonest class of everybody's training images 0.2, of each client's own 0.4."""
    return (
        ClientEvaluation(CLIENTS[0], accuracy=0.9, loss=0.3, examples=10, trained=True, majority=0.2, own_majority=0.5),
        ClientEvaluation(CLIENTS[1], accuracy=0.6, loss=0.6, examples=20, trained=True, majority=0.3, own_majority=0.4),
        ClientEvaluation(CLIENTS[2], accuracy=0.3, loss=0.9, examples=70, trained=True, majority=0.1, own_majority=0.3),
        ClientEvaluation(CLIENTS[3], accuracy=0.1, loss=3.0, examples=10, trained=False),
    )


def federated_data() -> FederatedData:
    """56 images, labels 0×16, 1×16, 2×16, 0×8, dealt in order to four clients of 12; the last 8 are the test set."""
    labels = torch.arange(56) // 16 % 3
    rows = np.arange(56, dtype=np.int64)
    clients = tuple(
        ClientRows(name, rows[12 * k : 12 * k + 8], rows[12 * k + 8 : 12 * k + 10], rows[12 * k + 10 : 12 * k + 12])
        for k, name in enumerate(CLIENTS)
    )
    report = DataReport(read=57, skipped=(("bad <photo>.png", "empty file"),), notes=("one class is rare",))
    return FederatedData(torch.zeros(56, 4, 4, 1, dtype=torch.uint8), labels, CLASSES, clients, rows[48:], report, "k")


def write_run(base: Path, name: str = "fedavg-lenet", rounds: int = 6, strategy: str = "fedavg") -> RunDir:
    """A run of 6 rounds that has done `rounds` of them; the clients are evaluated in rounds 3 and 6."""
    run = RunDir.create(base, name)
    config = {
        "model": {"name": "lenet"},
        "federated": {"num_rounds": 6},
        "strategy": {"name": strategy},
        "data": {"source": "sample"},
        "seed": 0,
    }
    run.config.write_text(yaml.safe_dump(config))
    run.save_versions("cpu")
    save_data(run, federated_data())
    metrics = MetricsFile(run.metrics)
    for number in range(1, rounds + 1):
        metrics.round(record(number, clients=number in {3, 6}))
    metrics.close()
    if rounds == 6:
        run.finish("all rounds done")
    return run


def save_data(run: RunDir, data: FederatedData) -> None:
    """What a run writes of its data."""
    run.save_data(data, client_infos(data, torch.device("cpu")))


def write_page(folders: Sequence[Path], path: Path) -> None:
    """The page that `fedlens compare --plot` writes."""
    told: list[str] = []
    found = load_all(folders, told.append)
    rows_of(found, told.append)
    write_comparison(found, path, told)
