"""What rules of aggregation cost beside the plain mean: 20 clients of a ResNet-50's size, in one run.

    .venv/bin/python benchmarks/aggregation.py
    .venv/bin/python benchmarks/aggregation.py --rules median krum --clients 10 --repetitions 3

The updates are noise in the shapes of FedLens' resnet50 (25.6 million parameters) and lie in memory. Mean and rule take
turns; a ratio is taken within a repetition, and the median of the repetitions is reported. Memory is the median's: the
process' highest resident set while answers come in one by one and are combined, less what it had before. It is measured
before all else, and needs about 2.5 GB.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable, Iterator
from statistics import median
from typing import Any

import machine
import psutil
import torch

from fedlens.aggregation.base import AggregationRule, rules
from fedlens.core.types import ClientReport, ClientResult
from fedlens.models.base import ModelRequest, models
from fedlens.training.flat import FlatModel

NEED: dict[str, dict[str, Any]] = {
    "trimmed_mean": {"beta": 0.2},
    "krum": {"f": 4},
    "multikrum": {"f": 4},
    "bulyan": {"f": 4},
}
"""For a fifth of 20 clients; Bulyan bears 4 of 19."""


def resident(name: str) -> FlatModel:
    """The network of that name for 1000 classes, with random weights."""
    builder = models.get(name).build({})
    return FlatModel(builder.build(ModelRequest(1000, 224, 3)), torch.device("cpu"), channels_last=False)


def answers(shapes: dict[str, torch.Size], clients: int) -> Iterator[ClientResult]:
    generator = torch.Generator().manual_seed(0)
    for index in range(clients):
        noise = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        yield ClientResult(1, "train", ClientReport(f"client{index}", 100.0 + index, {}), noise)
        del noise


def seconds(rule: AggregationRule, cohort: Iterable[ClientResult], trainable: frozenset[str]) -> float:
    """A round's aggregation, from the first answer to the total."""
    started = time.perf_counter()
    stream = rule.aggregator(trainable)
    for answer in cohort:
        stream.add(answer)
        del answer
    assert stream.result() is not None
    return time.perf_counter() - started


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--rules", nargs="+", default=["median"], choices=[*rules.names(), "all"])
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="PyTorch's, for mean and rule")
    options = parser.parse_args()
    if options.small:
        options.clients, options.repetitions = 5, 1
    torch.set_num_threads(options.threads)
    before, model = machine.facts(), resident("resnet18" if options.small else "resnet50")
    shapes, trainable = {name: value.shape for name, value in model.state().items()}, model.trainable
    parameters, one_model = model.vector.numel(), sum(shape.numel() for shape in shapes.values()) * 4
    del model
    build = {name: rules.get(name).build(NEED.get(name, {})) for name in rules.names()}
    seconds(build["median"], answers({"warm-up": torch.Size([1000])}, 3), frozenset())
    base = psutil.Process().memory_info().rss
    seconds(build["median"], answers(shapes, options.clients), trainable)
    memory = peak_bytes() - base
    cohort = list(answers(shapes, options.clients))
    names = [name for name in rules.names() if name != "mean"] if "all" in options.rules else options.rules
    figures = {}
    for name in names:
        taken = [
            (seconds(build["mean"], cohort, trainable), seconds(build[name], cohort, trainable))
            for _ in range(options.repetitions)
        ]
        figures[name] = {
            "seconds": median(rule for _, rule in taken),
            "mean_seconds": median(mean for mean, _ in taken),
            "ratio": median(rule / mean for mean, rule in taken),
            "ratios": [rule / mean for mean, rule in taken],
        }
        row = figures[name]
        print(
            f"{name:18} {row['seconds']:7.2f} s, the mean {row['mean_seconds']:.2f} s: {row['ratio']:6.1f} ×",
            flush=True,
        )
    allowed = (options.clients + 1) * one_model
    print(f"memory of the median: {memory / 1e6:,.0f} MB; the updates and one model: {allowed / 1e6:,.0f} MB")
    print(
        machine.save(
            "aggregation",
            before | {"threads": torch.get_num_threads()},
            {
                "clients": options.clients,
                "parameters": parameters,
                "rules": figures,
                "median_memory_mb": memory / 1e6,
                "updates_and_one_model_mb": allowed / 1e6,
            },
            small=options.small,
        )
    )


if __name__ == "__main__":
    main()
