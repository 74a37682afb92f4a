"""What two changes to oneDNN's ways give on the CPU.

    .venv/bin/python benchmarks/kernels.py

limit: workers keep its kernels for all sizes of batches (`training/process.py`). Rounds of MobileNetV3-small at 96
pixels beside a text part, whose modality dropout takes some images out of each batch, so that batches have every size:
with oneDNN's own limit of 1,024 kernels, and with FedLens'. The first rounds are left out: kernels are made in them in
any case.

depthwise: weight gradients of large depthwise kernels over few pixels (`training/depthwise.py`). Gradients of the same
network on a batch of 32, by one thread, in seconds of the processor: with PyTorch's way, and with FedLens'.

Both take turns, and a ratio is taken within one turn.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from statistics import median

import machine
import torch
from fedlens_run import CONFIGS, FedLensRun, spent
from torch.nn import functional as F

from fedlens.models.base import ModelRequest
from fedlens.models.build import build_model, builder_named
from fedlens.training.depthwise import large_depthwise, quick_gradients
from fedlens.training.process import prepare_process

CONFIG = CONFIGS / "multimodal.yaml"
CAPACITY = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
THEIRS, OURS = "oneDNN's", "FedLens'"
BATCH, STEPS, FIRST = 32, 5, 3


def limit(network: str, rounds: int) -> dict[str, Callable[[], float]]:
    """Mean seconds of a round, because sizes differ from round to round."""
    texts = ("model.name=fusion", f"model.image={network}")

    def seconds(kernels: str | None) -> float:
        os.environ.pop(CAPACITY, None)
        if kernels is not None:
            os.environ[CAPACITY] = kernels
        with FedLensRun(CONFIG, *texts, f"federated.num_rounds={rounds + FIRST}") as run:
            found = [spent(line) for _, line in run.rounds()]
        return sum(found[FIRST:]) / rounds

    return {THEIRS: lambda: seconds("1024"), OURS: lambda: seconds(None)}


def depthwise(network: str, side: int) -> dict[str, Callable[[], float]]:
    """Seconds of a gradient."""
    torch.manual_seed(0)
    request = ModelRequest(num_classes=10, image_size=side, image_channels=3)
    model = build_model(builder_named(network), request).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    images = torch.rand(BATCH, model.preprocessing.channels, side, side).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(BATCH) % 10

    def seconds(quick: bool) -> float:
        started = time.process_time()
        with quick_gradients(large_depthwise(model) if quick else []):
            for _ in range(STEPS):
                F.cross_entropy(model(images), labels).backward()
        return (time.process_time() - started) / STEPS

    return {THEIRS: lambda: seconds(False), OURS: lambda: seconds(True)}


def turns(kinds: dict[str, Callable[[], float]], repetitions: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(repetitions):
        for name in list(kinds)[:: 1 if turn % 2 else -1]:
            found[name].append(kinds[name]())
    found["ratio"] = [mine / theirs for mine, theirs in zip(found[OURS], found[THEIRS], strict=True)]
    return found


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--network", default="mobilenetv3")
    parser.add_argument("--side", type=int, default=96, help="pixels, for depthwise")
    parser.add_argument("--repetitions", type=int, default=4, help="for limit; three times as many for depthwise")
    parser.add_argument("--rounds", type=int, default=12, help="rounds a run, after the first three")
    options, before = parser.parse_args(), machine.facts()
    if options.small:
        options.network, options.side, options.repetitions, options.rounds = "lenet", 28, 1, 1
    prepare_process()
    torch.set_num_threads(1)
    direct = depthwise(options.network, options.side)
    turns(direct, 1)  # kernels are made
    figures = {
        "depthwise": turns(direct, 3 * options.repetitions),
        "limit": turns(limit(options.network, options.rounds), options.repetitions),
    }
    for what, found in figures.items():
        for name, values in found.items():
            print(f"{what:10} {name:10} {median(values):.4f} ({min(values):.4f} – {max(values):.4f})")
    print(machine.save("kernels", before, {"network": options.network, **figures}, small=options.small))


if __name__ == "__main__":
    main()
