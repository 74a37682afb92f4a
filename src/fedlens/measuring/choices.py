"""What may be changed of a configuration so that a run is faster, or takes less memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from fedlens.build.builders import build_recognizer
from fedlens.config.schema import Config
from fedlens.core.machine import cores
from fedlens.data.types import FederatedData
from fedlens.models.checkpointing import enable_gradient_checkpointing
from fedlens.sweeps.points import Point
from fedlens.sweeps.pool import gpus

Effect = Literal["same", "rounding", "other"]
"""What a change does to the numbers of a run: none, other last digits as another number of workers has them, or other
numbers."""

PIECE = 8
"""Images of a micro-batch that is tried."""

CORE_CHOICES = 3
"""Divisions of the cores into workers and threads that are tried."""


@dataclass(frozen=True)
class Choice:
    """values: of the keys that it changes."""

    values: Mapping[str, Any]
    effect: Effect


@dataclass(frozen=True)
class Facts:
    """What decides which choices there are. workers: processes of the configuration; cohort: the most clients of a
    round; blocks: that gradient checkpointing could compute again; batch_norm, convolutions: the model has such
    layers; gpu: the run uses one."""

    workers: int
    cohort: int
    blocks: int
    batch_norm: bool
    convolutions: bool
    gpu: bool

    @classmethod
    def of(cls, config: Config, data: FederatedData, cohort: int) -> Facts:
        """Raises ConfigError, ModelError: the model cannot be built."""
        gpu = gpus([Point("", config)]) > 0
        model, _ = build_recognizer(config, data)
        found = cls(
            workers_of(config, cohort, gpu),
            cohort,
            0,
            _has(model, _BatchNorm),
            _has(model, _ConvNd),
            gpu,
        )
        return cls(**{**vars(found), "blocks": enable_gradient_checkpointing(model)})


def _has(model: nn.Module, kind: type[nn.Module]) -> bool:
    return any(isinstance(part, kind) for part in model.modules())


def workers_of(config: Config, cohort: int, gpu: bool) -> int:
    """Workers that have something to do at a time."""
    if config.runtime.name == "in_process":
        return 1
    return min(config.runtime.workers or (1 if gpu else cores()), cohort)


def choices(config: Config, facts: Facts) -> Iterator[Choice]:
    """The choices for `config`, the most useful ones first."""
    memory = config.memory
    yield from _processes(config, facts)
    if facts.convolutions:
        yield Choice({"memory.channels_last": not memory.channels_last}, "rounding")
    if config.federated.batch_size > PIECE and memory.micro_batch is None:
        yield Choice({"memory.micro_batch": PIECE}, "other" if facts.batch_norm else "rounding")
    if facts.blocks and not memory.gradient_checkpointing:
        yield Choice({"memory.gradient_checkpointing": True}, "same")
    if memory.precision == "fp32":
        yield Choice({"memory.precision": "bf16"}, "other")
        if facts.gpu:
            yield Choice({"memory.precision": "fp16"}, "other")
    if config.model.freeze != "none" and config.data.augment != "none":
        yield Choice({"data.augment": "none"}, "other")


def _processes(config: Config, facts: Facts) -> Iterator[Choice]:
    """Other divisions of the cores into workers and threads."""
    if facts.gpu or config.runtime.name != "local":
        return
    threads, found = config.runtime.threads_per_worker, 0
    workers = min(cores(), facts.cohort)
    while workers and found < CORE_CHOICES:
        other = workers, cores() // workers
        if other != (facts.workers, threads):
            found += 1
            yield Choice({"runtime.workers": other[0], "runtime.threads_per_worker": other[1]}, "rounding")
        workers //= 2


def lacking(config: Config, facts: Facts) -> Iterator[str]:
    """What cannot be had here, each with the reason."""
    if not facts.gpu:
        has = torch.cuda.is_available()
        why = "runtime.device=cpu leaves this machine's GPU alone" if has else "PyTorch finds no CUDA GPU here"
        yield f"a GPU, and memory.precision=fp16: {why}"
    if not facts.blocks:
        yield f"memory.gradient_checkpointing: model {config.model.name} has no blocks to compute again"
    if config.runtime.name != "local":
        yield f"other workers and threads: runtime.name={config.runtime.name} is not measured with others"
    if config.model.freeze != "none" and config.data.augment == "none":
        yield "features of frozen layers are computed once already, where the model can be cut there"
