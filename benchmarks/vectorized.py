"""Clients that a worker trains together (`runtime.vectorize`), beside the same clients one after the other.

    .venv/bin/python benchmarks/vectorized.py
    .venv/bin/python benchmarks/vectorized.py --networks lenet --clients 64 --stacks 8 64 --device cuda

One worker, on the CPU with one thread, trains all clients in turn with each number of them together: batches of 10 of
28 × 28 uint8 noise (of 576 features for `head`), SGD with momentum, five steps a client (50 pictures), and 5 to 1 steps
where clients are unequal. The time is that of a worker's share of a round: from the tasks to the sum of the updates; on
the CPU, the processor's time, which other programs disturb less. Ratios are of the time one after the other to the time
together, within a turn; above 1, together is faster.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import machine
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from fedlens.core.client_store import ClientStore
from fedlens.core.types import Task, TaskSettings
from fedlens.data.types import ClientRows, DataReport, FederatedData
from fedlens.models.base import ModelRequest, Preprocessing, Recognizer, prepare
from fedlens.models.build import build_model, builder_named
from fedlens.runtimes.worker import work
from fedlens.strategies.fedavg import FedAvg
from fedlens.training.algorithm import Algorithm
from fedlens.training.client import ClientTrainer
from fedlens.training.flat import FlatModel
from fedlens.training.settings import LocalSettings

CLASSES, BATCH, MOST = 10, 10, 50

HEAD, FEATURES = "head", 576
"""The last layer of MobileNetV3 Small, where features of a frozen backbone are kept (`model.freeze=backbone`)."""


def noise(sizes: Sequence[int], network: str) -> FederatedData:
    """Clients with so many pictures, or features of as many."""
    generator = torch.Generator().manual_seed(0)
    shape = (sum(sizes), FEATURES) if network == HEAD else (sum(sizes), 28, 28, 1)
    pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    pixels = pixels.float().div_(255) if network == HEAD else pixels
    labels = torch.randint(CLASSES, (len(pixels),), generator=generator)
    ends, none = np.cumsum(sizes), np.arange(0)
    clients = tuple(
        ClientRows(f"client{number}", np.arange(end - size, end), none, none)
        for number, (end, size) in enumerate(zip(ends, sizes, strict=True))
    )
    names = tuple(map(str, range(CLASSES)))
    return FederatedData(pixels, labels, names, clients, none, DataReport(len(pixels)), "noise")


def trainer(network: str, data: FederatedData, device: torch.device, together: int, folder: Path) -> ClientTrainer:
    if network == HEAD:
        model = Recognizer(nn.Identity(), nn.Linear(FEATURES, CLASSES), Preprocessing(1, 1))
    else:
        model = build_model(builder_named(network), ModelRequest(CLASSES, 28, 1))
    found = ClientTrainer(
        FlatModel(model, device),
        data,
        Algorithm(FedAvg()),
        LocalSettings(batch_size=BATCH),
        ClientStore(folder),
        partial(prepare, how=model.preprocessing),
        vectorize=together,
    )
    if together > 1 and (obstacle := found.vectorizing.obstacle):
        raise SystemExit(f"{network} cannot be vectorised: {obstacle}")
    return found


def seconds(one: ClientTrainer, names: Sequence[str], number: int) -> float:
    """A worker's share of a round."""
    payload = {name: value.cpu() for name, value in one.model.state().items()}
    tasks = [Task(name, number, "train", payload, TaskSettings(lr=0.001)) for name in names]
    clock = time.process_time if one.model.device.type == "cpu" else time.perf_counter
    began = clock()
    (outcome,) = work(one, tasks)
    took = clock() - began
    assert len(outcome.reports) == len(names), "a client has failed"  # type: ignore[union-attr]  # it is a sum
    return took


def measure(network: str, sizes: Sequence[int], stacks: Sequence[int], turns: int, device: torch.device) -> Any:
    """Stack → the ratios of all turns, and the median of the milliseconds that one client's step takes."""
    data = noise(sizes, network)
    names, steps = [client.name for client in data.clients], sum(-(-size // BATCH) for size in sizes)
    with tempfile.TemporaryDirectory() as folder:
        made = {size: trainer(network, data, device, size, Path(folder)) for size in [1, *stacks]}
        for one in made.values():
            seconds(one, names, 1)
        taken: list[dict[int, float]] = []
        for turn in range(turns):
            taken.append({size: seconds(one, names, 2 + turn) for size, one in made.items()})
    return {
        str(size): {
            "ratio": median(turn[1] / turn[size] for turn in taken),
            "ratios": [turn[1] / turn[size] for turn in taken],
            "milliseconds_a_step": 1000 * median(turn[size] for turn in taken) / steps,
        }
        for size in made
    }


def table(found: dict[str, Any]) -> Table:
    shown = Table("network", "clients", "together", "ms a client's step", "ratio", "lowest – highest")
    for name, rows in found.items():
        for size, row in rows.items():
            spread = f"{min(row['ratios']):.2f} – {max(row['ratios']):.2f}"
            shown.add_row(*name.split(), size, f"{row['milliseconds_a_step']:.2f}", f"{row['ratio']:.2f}", spread)
    return shown


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--networks", nargs="+", default=[HEAD, "lenet", "cnn"])
    parser.add_argument("--stacks", nargs="+", type=int, default=[4, 8, 16], help="clients together")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    if options.small:
        options.networks, options.stacks, options.turns, options.device = ["lenet"], [4], 1, "cpu"
    machine.need_gpu(parser, options.device)
    torch.set_num_threads(1)
    before = machine.facts(options.device)
    unequal = [MOST - 45 * number // max(options.clients - 1, 1) for number in range(options.clients)]
    cohorts = {"equal": [MOST] * options.clients, "unequal": unequal}
    found: dict[str, Any] = {}
    for network in options.networks:
        for name, sizes in cohorts.items():
            found[f"{network} {name}"] = measure(
                network, sizes, options.stacks, options.turns, torch.device(options.device)
            )
            Console(width=110).print(table(found))
    name = "vectorized" if options.device == "cpu" else "vectorized-gpu"
    print(machine.save(name, before, {"clients": options.clients, "found": found}, small=options.small))


if __name__ == "__main__":
    main()
