"""FedBuff's speed-up over synchronous rounds: virtual time to a target accuracy with 100 clients at work.

    .venv/bin/python benchmarks/fedbuff.py --server_lr 1 2 4 --seeds 0 1 2

Nguyen et al. 2022 (https://arxiv.org/abs/2106.06639) compare FedBuff with synchronous FedAvg, without and with 30 %
over-selection, at the same concurrency, with half-normal delays, and count the time until a validation accuracy is
reached. Here: LeNet on Fashion-MNIST, 1,000 clients of Dirichlet 0.5, concurrency 100, K = 10. Training is real, time
is the virtual clock's. Every method gets the server's learning rate, of those in `--server_lr`, that serves it best
with the first seed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import machine

import fedlens
from fedlens.tracking.metrics import read_metrics

COMMON = (
    *("model.name=lenet", "optimizer.lr=0.1", "optimizer.momentum=0", "federated.batch_size=10"),
    *("data.partition.scheme=dirichlet", "data.partition.alpha=0.5", "data.client_test=0"),
    *("clock.name=half_normal", "strategy.name=fedavgm", "federated.evaluate_clients_every=0"),
    *("tracking.tensorboard=false", "tracking.report=false"),
)


@dataclass(frozen=True)
class Size:
    """How large the comparison is. `updates`: clients' updates after which a method has not reached the target."""

    clients: int
    concurrency: int
    buffer: int
    updates: int
    data: tuple[str, ...]


FULL = Size(1000, 100, 10, 12_000, ("data.source=fashion_mnist", "data.partition.min_size=4"))
SMALL = Size(20, 5, 2, 10, ("data.source=sample",))


def methods(size: Size) -> dict[str, tuple[str, ...]]:
    """Settings by method; a synchronous round has as many clients at work as FedBuff at any time."""
    synchronous = (
        f"federated.fraction_fit={size.concurrency / size.clients}",
        f"federated.num_rounds={size.updates // size.concurrency}",
    )
    needed = round(size.concurrency / 1.3)  # 30 % more than these are at work
    over_selected = (
        f"federated.fraction_fit={needed / size.clients}",
        f"federated.num_rounds={size.updates // needed}",
        "federated.over_selection=0.3",
    )
    buffered = (
        "schedule.name=fedbuff",
        f"schedule.buffer_size={size.buffer}",
        f"schedule.concurrency={size.concurrency}",
        f"federated.num_rounds={size.updates // size.buffer}",
        f"federated.evaluate_every={size.concurrency // size.buffer}",
    )
    return {"FedAvg": synchronous, "FedAvg, over-selected": over_selected, "FedBuff": buffered}


def race(size: Size, settings: Sequence[str], target: float, server_lr: float, seed: int) -> dict[str, Any]:
    """One run until the target; virtual time and updates are None when it was not reached."""
    with tempfile.TemporaryDirectory(prefix="fedlens-fedbuff-") as logs:
        run = fedlens.run(
            None,
            *COMMON,
            *size.data,
            f"data.partition.clients={size.clients}",
            *settings,
            "strategy.server_momentum=0",
            f"strategy.server_lr={server_lr}",
            f"stopping.target_accuracy={target}",
            f"tracking.dir={logs}",
            f"seed={seed}",
            show=False,
        )
        lines = read_metrics(Path(run.folder) / "metrics.jsonl")
    last = lines[-1]
    reached = last["validation"]["accuracy"] >= target
    return {
        "server_lr": server_lr,
        "virtual_seconds": last["virtual_seconds"] if reached else None,
        "updates": sum(len(line["cohort"]) for line in lines) if reached else None,
        "steps": last["round"],
        "validation_accuracy": last["validation"]["accuracy"],
        "mean_staleness": last["staleness"]["mean"] if last["staleness"] else 0.0,
        "curve": [(one["virtual_seconds"], one["validation"]["accuracy"]) for one in lines if one["validation"]],
        "seconds": sum(sum(line["seconds"].values()) for line in lines),
    }


def best(tries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The try that reached the target first; without one, the most accurate."""
    return min(tries, key=lambda one: (one["virtual_seconds"] or float("inf"), -one["validation_accuracy"]))


def measured(size: Size, settings: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """A method's time to the target: of each learning rate with the first seed, then of the best with every seed."""
    first, *others = options.seeds
    tries = [race(size, settings, options.target, lr, first) for lr in options.server_lr]
    chosen = best(tries)
    races = [chosen, *(race(size, settings, options.target, chosen["server_lr"], seed) for seed in others)]
    times = [one["virtual_seconds"] for one in races]
    return {
        "server_lr": chosen["server_lr"],
        "virtual_seconds": None if None in times else fmean(times),
        "by_seed": times,
        "by_server_lr": {one["server_lr"]: one["virtual_seconds"] for one in tries},
        "updates": [one["updates"] for one in races],
        "mean_staleness": [one["mean_staleness"] for one in races],
        "seconds": [one["seconds"] for one in (*tries, *races[1:])],
        "curve": chosen["curve"],
    }


def picture(found: dict[str, dict[str, Any]], target: float, path: Path) -> None:
    """Validation accuracy against virtual time, a curve a method."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name, result in found.items():
        seconds, accuracy = zip(*result["curve"], strict=True)
        axes.plot(seconds, [100 * share for share in accuracy], label=name)
    axes.axhline(100 * target, color="grey", linewidth=0.8, linestyle="--")
    axes.set(xlabel="virtual seconds", ylabel="validation accuracy in %")
    axes.legend()
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--target", type=float, default=0.7, help="validation accuracy")
    parser.add_argument("--server_lr", type=float, nargs="+", default=[1.0], help="tried for every method")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--picture", type=Path, help="write the curves as a picture, too")
    options, before = parser.parse_args(), machine.facts()
    size = SMALL if options.small else FULL
    found: dict[str, dict[str, Any]] = {}
    for name, settings in methods(size).items():
        found[name] = measured(size, settings, options)
        told = {key: value for key, value in found[name].items() if key != "curve"}
        print(f"{name:24}", *(f"{key} {value}" for key, value in told.items()), sep="  ", flush=True)
    if options.picture:
        picture(found, options.target, options.picture)
    ours = found["FedBuff"]["virtual_seconds"]
    speed_up = {
        name: result["virtual_seconds"] / ours if ours and result["virtual_seconds"] else None
        for name, result in found.items()
    }
    for name, ratio in speed_up.items():
        print(f"{name:24}", "target not reached" if ratio is None else f"{ratio:.2f} x FedBuff's time")
    figures = {"target": options.target, "methods": found, "speed_up": speed_up}
    print(machine.save("fedbuff", before, figures, small=options.small))


if __name__ == "__main__":
    main()
