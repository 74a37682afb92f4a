"""Training on a GPU: images a second beside a bare PyTorch loop, and the GPU memory that it takes.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --device cpu --networks lenet      # without a GPU: the same code, no figures of memory
    python benchmarks/gpu.py --networks resnet50 --precisions bf16 --add    # beside the figures that are kept
    python benchmarks/gpu.py --networks lenet --graph       # FedLens has runtime.graph=auto; here also without

Four clients, all in every round, one local epoch, SGD with momentum, uint8 noise for pictures, which costs what
photographs cost. FedLens is one `fedlens.run` in one process, of which the local training is timed (`seconds.train`:
models and images to the GPU, training, answers back, their sum), the first round left out. The bare loop is the same
network, batch size, precision and memory layout with torch.optim.SGD, and all pictures lie on the GPU beforehand. Both
take turns; a ratio is taken within a turn.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import machine
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import TensorDataset

import fedlens
from fedlens.models.base import ModelRequest, Recognizer
from fedlens.models.build import build_model, builder_named
from fedlens.models.sections import LoraSection

CLIENTS = 4
CLASSES = 10
DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Work:
    """images: of each client; size: of a picture's side; lora: rank of the adapters that are trained, 0: all is."""

    network: str
    images: int
    size: int
    batch: int
    lora: int = 0

    def clients(self) -> dict[str, TensorDataset]:
        """Everybody's pictures."""
        return {f"client{number}": noise(self.images, self.size, number) for number in range(CLIENTS)}


def noise(count: int, size: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    return TensorDataset(pixels, torch.randint(CLASSES, (count,), generator=generator))


NETWORKS = {
    "resnet50": Work("resnet50", 256, 224, 64),
    "mobilenetv3": Work("mobilenetv3", 256, 224, 64),
    "vit": Work("vit", 128, 224, 64),
    "vit-lora": Work("vit", 128, 224, 64, lora=8),
    "lenet": Work("lenet", 1600, 28, 64),
}


@dataclass(frozen=True)
class Figure:
    """Images a second, and the most GPU memory that tensors took, in GiB."""

    speed: float
    memory: float


def peak() -> float:
    return float(torch.cuda.max_memory_allocated() / 2**30) if torch.cuda.is_initialized() else 0.0


def synchronized(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def federated(
    work: Work, precision: str, clients: dict[str, TensorDataset], rounds: int, device: str, graph: str = "auto"
) -> Figure:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        settings = (
            *(f"model.name={work.network}", f"memory.precision={precision}", f"federated.batch_size={work.batch}"),
            *([f"model.lora.rank={work.lora}"] if work.lora else []),
            *("data.validation=0", "data.client_test=0", "federated.fraction_fit=1", f"federated.num_rounds={rounds}"),
            *("federated.evaluate_every=0", "federated.evaluate_clients_every=0", "optimizer.momentum=0.9"),
            *(f"runtime.device={device}", "runtime.workers=1", f"runtime.graph={graph}"),
            *("tracking.tensorboard=false", "tracking.report=false"),
            f"tracking.dir={folder}",
        )
        lines = fedlens.run(None, *settings, data=clients, test=noise(8, work.size, CLIENTS), show=False).metrics
    return Figure(CLIENTS * work.images / median(lines["seconds.train"].iloc[1:]), peak())


def bare(work: Work, precision: str, clients: dict[str, TensorDataset], rounds: int, device: str) -> Figure:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    request, lora = ModelRequest(CLASSES, work.size, 3), LoraSection(rank=work.lora)
    model = build_model(builder_named(work.network), request, lora=lora).to(device).train()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs leave it out
    pixels, labels = (torch.cat(own).to(device) for own in zip(*(one.tensors for one in clients.values()), strict=True))
    pixels = pixels.permute(0, 2, 3, 1).contiguous()
    took = []
    for _ in range(rounds):
        synchronized(device)
        began = time.perf_counter()
        epoch(model, pixels, labels, work.batch, precision)
        synchronized(device)
        took.append(time.perf_counter() - began)
    return Figure(len(labels) / median(took[1:]), peak())


def epoch(model: Recognizer, pixels: torch.Tensor, labels: torch.Tensor, batch: int, precision: str) -> None:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, 0.01, momentum=0.9)
    device = labels.device.type
    scaler = torch.amp.GradScaler(device, enabled=precision == "fp16")  # not in the stubs
    for rows in torch.randperm(len(labels), device=device).split(batch):
        optimizer.zero_grad()
        with torch.autocast(device, DTYPES[precision], enabled=precision != "fp32"):
            inputs = model.prepare(pixels[rows]).contiguous(memory_format=torch.channels_last)
            logits = model(inputs)
        scaler.scale(nn.functional.cross_entropy(logits.float(), labels[rows])).backward()
        scaler.step(optimizer)
        scaler.update()


def measure(work: Work, precision: str, turns: int, rounds: int, device: str, *, graph: bool) -> dict[str, Any]:
    """`graph`: FedLens is measured without a CUDA graph, too."""
    sides: list[Callable[..., Figure]] = [federated, bare, *([partial(federated, graph="false")] if graph else [])]
    clients = work.clients()
    found = [[side(work, precision, clients, rounds, device) for side in sides] for _ in range(turns)]
    pairs = [(ours, theirs) for ours, theirs, *_ in found]
    ratios = [ours.speed / theirs.speed for ours, theirs in pairs]
    return {
        **(_without(found) if graph else {}),
        "images_a_second": median(ours.speed for ours, _ in pairs),
        "bare": median(theirs.speed for _, theirs in pairs),
        "ratio": median(ratios),
        "ratios": ratios,
        "memory_gib": max(ours.memory for ours, _ in pairs),
        "bare_memory_gib": max(theirs.memory for _, theirs in pairs),
    }


def _without(found: list[list[Figure]]) -> dict[str, Any]:
    """`graph_ratios`: speed with a graph, where one is chosen, over that without."""
    return {
        "graph_ratios": [ours.speed / without.speed for ours, _, without in found],
        "memory_without_graph_gib": max(without.memory for _, _, without in found),
    }


def table(found: dict[str, Any]) -> Table:
    columns = ("network", "precision", "images/s", "bare", "ratio", "lowest – highest")
    shown = Table(*columns, "GiB", "bare", "ratio", "graph / none")
    for name, row in found.items():
        spread = f"{min(row['ratios']):.2f} – {max(row['ratios']):.2f}"
        speeds = (f"{row['images_a_second']:,.0f}", f"{row['bare']:,.0f}", f"{row['ratio']:.2f}", spread)
        ours, theirs = row["memory_gib"], row["bare_memory_gib"]
        memory = (f"{ours:.1f}", f"{theirs:.1f}", f"{ours / theirs:.2f}" if theirs else "")
        graph = f"{median(row['graph_ratios']):.2f}" if "graph_ratios" in row else ""
        shown.add_row(*name.split(), *speeds, *memory, graph)
    return shown


def kept_before(now: dict[str, Any]) -> dict[str, Any]:
    """The figures that are kept, if they are of the same GPU and the same PyTorch as `now`, the machine's facts."""
    file = machine.RESULTS / "gpu.json"
    record = json.loads(file.read_text()) if file.exists() else {"machine": {}}
    same = all(record["machine"].get(name) == now.get(name) for name in ("gpu", "torch"))
    return record["found"] if same else {}


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--precisions", nargs="+", choices=DTYPES, default=["fp32", "bf16"])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=4, help="a turn; the first is not counted")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--add", action="store_true", help="keep the figures of others, if made on the same GPU")
    parser.add_argument("--graph", action="store_true", help="measure FedLens without a CUDA graph, too")
    options = parser.parse_args()
    if options.small:
        options.graph = True
        options.networks, options.precisions, options.turns, options.rounds = ["lenet"], ["fp32"], 1, 2
        options.device = "cpu"
    machine.need_gpu(parser, options.device)
    before = machine.facts(options.device)
    found: dict[str, Any] = kept_before(before) if options.add else {}
    for name in options.networks:
        for precision in options.precisions:
            work, often = NETWORKS[name], (options.turns, options.rounds)
            found[f"{name} {precision}"] = measure(work, precision, *often, options.device, graph=options.graph)
            kept = machine.save("gpu", before, {"found": found}, small=options.small or options.device == "cpu")
            Console(width=110).print(table(found))
    print(kept)


if __name__ == "__main__":
    main()
