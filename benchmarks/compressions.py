"""Accuracy against bytes: what each compression saves, and what it costs.

    .venv/bin/python benchmarks/compressions.py
    .venv/bin/python benchmarks/compressions.py --data sample
    .venv/bin/python benchmarks/compressions.py --seeds 0 --methods none half

LeNet on Fashion-MNIST, 20 clients (Dirichlet 0.3), or on the sample with its own ten clients; half of them a round, 30
rounds, one local epoch. Each method runs with each seed; the table has the test accuracy of the last round (mean,
lowest and highest over the seeds) and the megabytes of one run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import machine
from rich.console import Console
from rich.table import Table

import fedlens

METHODS: Mapping[str, Sequence[str]] = {
    "none": (),
    "half": ("compression.name=half",),
    "half, both ways": ("compression.name=half", "compression.down=true"),
    "8 bits": ("compression.name=quantize",),
    "4 bits": ("compression.name=quantize", "compression.bits=4"),
    "top 10 %": ("compression.name=topk", "compression.share=0.1"),
    "top 1 %": ("compression.name=topk", "compression.share=0.01"),
}
WORK = (
    *("model.name=lenet", "federated.num_rounds=30", "federated.fraction_fit=0.5", "federated.evaluate_every=0"),
    *("tracking.tensorboard=false", "tracking.report=false", "data.validation=0", "data.client_test=0"),
)
DATA: Mapping[str, Sequence[str]] = {
    "fashion_mnist": (
        *("data.source=fashion_mnist", "data.partition.scheme=dirichlet"),
        *("data.partition.alpha=0.3", "data.partition.clients=20"),
    ),
    "sample": ("data.source=sample",),
}
SMALL = ("data.source=sample", "federated.num_rounds=1", "federated.fraction_fit=0.2")


def one_run(method: str, seed: int, *overrides: str) -> tuple[float, float]:
    """(test accuracy of the last round, megabytes in both directions)."""
    with tempfile.TemporaryDirectory(prefix="fedlens-compression-") as folder:
        run = fedlens.run(
            None, *WORK, *overrides, *METHODS[method], f"seed={seed}", f"tracking.dir={folder}", show=False
        )
        metrics = run.metrics
        sent = float((metrics["bytes_up"] + metrics["bytes_down"]).sum()) / 1e6
        return float(metrics["test.accuracy"].iloc[-1]), sent


def table(found: Mapping[str, Mapping[str, Any]], data: str) -> Table:
    shown = Table("compression", "test accuracy", "lowest – highest", "MB", "of none", title=f"LeNet, {data}")
    whole = found["none"]["megabytes"] if "none" in found else None
    for method, row in found.items():
        spread = f"{100 * min(row['accuracies']):.1f} – {100 * max(row['accuracies']):.1f}"
        part = f"{row['megabytes'] / whole:.2f}" if whole else "–"
        shown.add_row(method, f"{100 * mean(row['accuracies']):.1f} %", spread, f"{row['megabytes']:,.1f}", part)
    return shown


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--data", choices=DATA, default="fashion_mnist")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD")
    arguments = parser.parse_args()
    before = machine.facts()
    seeds = [0] if arguments.small else arguments.seeds
    overrides = SMALL if arguments.small else DATA[arguments.data]
    found: dict[str, dict[str, Any]] = {}
    for method in arguments.methods:
        runs = [one_run(method, seed, *overrides) for seed in seeds]
        found[method] = {"accuracies": [accuracy for accuracy, _ in runs], "megabytes": runs[0][1]}
    Console().print(table(found, arguments.data))
    name = "compressions" + ("" if arguments.data == "fashion_mnist" else f"-{arguments.data}")
    print(machine.save(name, before, {"methods": found}, small=arguments.small))


if __name__ == "__main__":
    main()
