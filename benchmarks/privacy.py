"""What differential privacy costs.

    .venv/bin/python benchmarks/privacy.py dpsgd      a step of DP-SGD on LeNet beside a bare Opacus loop
    .venv/bin/python benchmarks/privacy.py vit        gradients of single images beside those of whole batches, on a ViT
    .venv/bin/python benchmarks/privacy.py rounds     a round with privacy or secure aggregation beside one without

`dpsgd`: both take the same batches of 28 × 28 images in turns, in one process with one thread. FedLens' step is the
shared local loop with its coins and noise from AES-256; Opacus' is GradSampleModule and DPOptimizer with torch's own
generator, on the same layers without activations in place, which its hooks do not allow.

`vit`: clipped gradients of single images (`training.image_gradients`) beside backpropagation of the batch, on timm's
ViT-Ti/16 with 16 images of 32 and of 224 pixels, one thread: all of it, adapters of LoRA, and the head alone.

`rounds`: FedAvg on MobileNetV3 with GroupNorm, ten clients of 96 images in the local runtime. They are `fedlens run`s
that take turns, as in `speed.py`; ε is computed after every round.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any

import machine
import timm
import torch
from contender import HERE, Contender
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from peft import LoraConfig, inject_adapter_in_model
from speed import compete, ratios
from torch import Tensor, nn
from torch.nn import functional as F

from fedlens.core.randomness import KEY_BYTES, random_bytes
from fedlens.models.lenet import Layers
from fedlens.privacy.dp_sgd import PrivateSteps, Steps
from fedlens.privacy.noise import coins_from, normal_from
from fedlens.strategies.base import LocalTerms
from fedlens.training.flat import FlatModel
from fedlens.training.image_gradients import ImageGradients
from fedlens.training.loop import LocalLoop
from fedlens.training.optimizers.base import VectorOptimizer
from fedlens.training.settings import LocalSettings

BATCH, SIDE = 64, 4
"""Images in a batch; side of LeNet's last feature map on 28 × 28 pixels."""
TURNS, BURST = 7, 3
"""Of `rounds`: how often each contender has its turn, and rounds of a turn."""
MOST_RATIO = 1.1
"""What is asked of a step of DP-SGD: beside Opacus'."""
TEN = ("federated.fraction_fit=1", "data.partition.clients=10")
CENTRAL = (*TEN, "privacy.mode=central", "privacy.sampling=cyclic")
RUNS: Mapping[str, Sequence[str]] = {
    "plain": TEN,
    "central": CENTRAL,
    "dp_ftrl": (*CENTRAL, "privacy.mechanism=dp_ftrl"),
    "secure": (*TEN, "privacy.secure_aggregation=true"),
    "distributed": (*CENTRAL, "privacy.secure_aggregation=true"),
}
ASKED = {"central": 1.05, "dp_ftrl": 1.15, "secure": 2.0, "distributed": 2.0}
"""Largest ratio of a round to a plain one."""


def lenet() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Layers(1, SIDE), nn.Linear(84, 10))


def lenet_for_opacus() -> nn.Module:
    layers = lenet()[0]  # type: ignore[index]
    return nn.Sequential(
        *(layers.conv1, nn.MaxPool2d(2), nn.ReLU(), layers.conv2, nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()),
        *(layers.dense1, nn.ReLU(), layers.dense2, nn.ReLU(), nn.Linear(84, 10)),
    )


def fedlens_step(images: Tensor, labels: Tensor) -> Callable[[], object]:
    model = FlatModel(lenet(), torch.device("cpu"))
    settings, many = LocalSettings(batch_size=BATCH), Steps.of(1.0, batches=10, epochs=10**6)
    steps = PrivateSteps(
        many, 1.0, 10 * BATCH, normal_from(random_bytes(KEY_BYTES)), coins_from(random_bytes(KEY_BYTES))
    )
    loop = LocalLoop(model, settings, LocalTerms(), private=steps)
    optimizer, generator, coins = VectorOptimizer(settings.optimizer, {}), torch.Generator(), steps.batches()

    def step() -> None:
        next(coins)
        loop.run([(images, labels)], optimizer, 0.01, generator)

    return step


def opacus_step(images: Tensor, labels: Tensor) -> Callable[[], object]:
    module = GradSampleModule(lenet_for_opacus())
    plain = torch.optim.SGD(module.parameters(), 0.01, momentum=0.9)
    optimizer = DPOptimizer(plain, noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=BATCH)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(module(images), labels).backward()
        optimizer.step()

    return step


def dpsgd(small: bool) -> dict[str, Any]:
    """Milliseconds of a step; each has the median of its turns."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    batch = torch.rand(BATCH, 1, 28, 28, generator=generator), torch.randint(10, (BATCH,), generator=generator)
    contenders = {"fedlens": fedlens_step(*batch), "opacus": opacus_step(*batch)}
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(3 if small else 200):
        for name, step in contenders.items():
            started = time.perf_counter()
            step()
            if turn:
                taken[name].append(1e3 * (time.perf_counter() - started))
    found = {name: median(times) for name, times in taken.items()}
    return {"ms_a_step": found, "ratio": found["fedlens"] / found["opacus"], "asked": MOST_RATIO}


def vit(small: bool) -> dict[str, Any]:
    """Seconds of a step, of single images and of the batch; each has the median of its turns."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for side in (32,) if small else (32, 224):
        for name, trained in {"all": ("",), "lora": ("lora_", "head."), "head": ("head.",)}.items():
            found[f"{name} {side}"] = _vit(name, trained, side, turns=1 if small else 7)
    return found


def _vit(name: str, trained: Sequence[str], side: int, turns: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    batch = torch.rand(16, 3, side, side, generator=generator), torch.randint(10, (16,), generator=generator)
    module: nn.Module = timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=side)
    if name == "lora":
        module = inject_adapter_in_model(LoraConfig(target_modules=["qkv"], r=8), module)
    for parameter, value in module.named_parameters():
        value.requires_grad_(any(part in parameter for part in trained))
    return _times(module, *batch, turns=turns)


def _times(module: nn.Module, images: Tensor, labels: Tensor, turns: int) -> dict[str, float]:
    model = FlatModel(module, torch.device("cpu"))
    single = ImageGradients(model, clip=1.0)

    def whole() -> None:
        F.cross_entropy(module(images), labels).backward()

    steps: Mapping[str, Callable[[], None]] = {"batch": whole, "images": lambda: single.add_clipped(images, labels)}
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(turns + 1):
        for name, work in steps.items():
            started = time.perf_counter()
            work()
            if turn:
                taken[name].append(time.perf_counter() - started)
    found = {name: median(times) for name, times in taken.items()}
    return {**found, "ratio": found["images"] / found["batch"]}


def rounds(small: bool, runs: Sequence[str] = tuple(RUNS)) -> dict[str, Any]:
    """Seconds of a round, and the ratio to one without privacy, of those `runs`."""
    script, workload = HERE / "peers" / "fedlens_fedavg.py", "lenet" if small else "mobilenetv3"
    same = ("federated.num_rounds=1000", *(["data.source=sample"] if small else ["model.norm=group", "data.rows=960"]))
    contenders = [Contender(name, [sys.executable, str(script), workload, "cpu", *same, *RUNS[name]]) for name in runs]
    with ExitStack() as running:
        for one in contenders:
            one.start()
            running.callback(one.close)
            one.burst(1)
            print(f"{one.name} has begun", flush=True)
        for turn in range(1 if small else TURNS):
            turned = turn % len(contenders)
            compete(contenders[turned:] + contenders[:turned], 1, 1 if small else BURST)
            print(
                f"turn {turn + 1}: {', '.join(f'{one.name} {median(one.bursts[-1]):.2f} s' for one in contenders)}",
                flush=True,
            )
    found = {}
    for one in contenders:
        ratio = ratios(one, contenders[0])
        found[one.name] = {
            "seconds_a_round": median(map(median, one.bursts)),
            "ratio": f"{median(ratio):.2f} ({min(ratio):.2f} – {max(ratio):.2f})",
            "asked": ASKED.get(one.name),
        }
    return found


PARTS: Mapping[str, Callable[..., dict[str, Any]]] = {"dpsgd": dpsgd, "vit": vit, "rounds": rounds}


def main() -> None:
    arguments = machine.parser(__doc__)
    arguments.add_argument("part", choices=PARTS)
    arguments.add_argument(
        "--runs", nargs="+", choices=RUNS, default=list(RUNS), help="of `rounds`; others are compared with the first"
    )
    options, before = arguments.parse_args(), machine.facts()
    more = {"runs": options.runs} if options.part == "rounds" else {}
    figures = PARTS[options.part](options.small, **more)
    for name, value in figures.items():
        print(f"{name:10} {value}")
    print(machine.save(f"privacy-{options.part}", before, figures, small=options.small))


if __name__ == "__main__":
    main()
