"""What may be changed of a configuration so that a run is faster, or takes less memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from fedlens.build.builders import build_recognizer
from fedlens.build.load import load
from fedlens.config.schema import Config
from fedlens.core.machine import cores
from fedlens.data.types import FederatedData
from fedlens.errors import ConfigError
from fedlens.models.base import OwnObjective, Recognizer
from fedlens.models.checkpointing import blocks_of
from fedlens.sweeps.points import Point
from fedlens.sweeps.pool import gpus
from fedlens.training.evaluation import EVALUATION_BATCH

Effect = Literal["same", "rounding", "other"]
"""What a change does to the numbers of a run: none, other last digits as another number of workers has them, or other
numbers."""

EFFECTS: tuple[Effect, ...] = ("same", "rounding", "other")

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
    round; blocks: that gradient checkpointing could compute again; whole_batches: a batch in pieces is another
    computation, because of batch norm or because rows are compared; convolutions: the model has such layers; gpu: the
    run uses one."""

    workers: int
    cohort: int
    blocks: int
    whole_batches: bool
    convolutions: bool
    gpu: bool

    @classmethod
    def of(cls, config: Config, data: FederatedData, cohort: int, given: nn.Module | None = None) -> Facts:
        """`given`: the model, in place of the configured one.

        Raises:
            ConfigError, ModelError: the model cannot be built.
        """
        gpu = gpus([Point("", config)]) > 0
        model = given if given is not None else build_recognizer(config, data)[0]
        return cls(
            workers_of(config, cohort, gpu),
            cohort,
            len(blocks_of(model)) if isinstance(model, Recognizer) else 0,
            _has(model, _BatchNorm) or isinstance(model, OwnObjective),
            _has(model, _ConvNd),
            gpu,
        )


def _has(model: nn.Module, kind: type[nn.Module]) -> bool:
    return any(isinstance(part, kind) for part in model.modules())


def workers_of(config: Config, cohort: int, gpu: bool) -> int:
    """Workers that have something to do at a time."""
    if config.runtime.name == "in_process":
        return 1
    return min(config.runtime.named_workers or (1 if gpu else cores()), cohort)


def choices(config: Config, facts: Facts) -> Iterator[Choice]:
    """The choices for `config`, the most useful ones first."""
    memory = config.memory
    yield from _processes(config, facts)
    if facts.convolutions:
        yield Choice({"memory.channels_last": not memory.channels_last}, "rounding")
    if config.federated.batch_size > PIECE and memory.micro_batch is None:
        yield Choice({"memory.micro_batch": PIECE}, "other" if facts.whole_batches else "rounding")
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


# -- where memory is short ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Smaller:
    """A configuration that takes less memory, and how it differs from the one that took too much."""

    choice: Choice
    config: Config


def smaller(config: Config, facts: Facts, largest: int) -> list[Smaller]:
    """What takes less and less memory than `config`, beginning with what changes its numbers least. Each has the
    changes of all before it. `largest`: the most training images of a client.

    Changes that do not go with the configuration are left out.
    """
    found: list[Smaller] = []
    values: dict[str, Any] = {}
    for choice in _smaller(config, facts, largest):
        wanted = {**values, **choice.values}
        try:
            changed = load(config, as_overrides(wanted), use="run")
        except ConfigError:
            continue
        values = wanted
        worst = max((choice.effect, *(one.choice.effect for one in found)), key=EFFECTS.index)
        found.append(Smaller(Choice(values, worst), changed))
    return found


def _smaller(config: Config, facts: Facts, largest: int) -> Iterator[Choice]:
    """The single changes, in their order."""
    whole, pieces = _pieces(config, min(config.federated.batch_size, largest))
    if whole:
        yield Choice({"memory.micro_batch": whole}, "same")  # it takes evaluations in smaller batches
    if facts.blocks and not config.memory.gradient_checkpointing:
        yield Choice({"memory.gradient_checkpointing": True}, "same")
    workers = _halves(facts.workers) if config.runtime.name == "local" else []
    fewer = [Choice({"runtime.workers": count}, "rounding") for count in workers]
    if facts.whole_batches:  # statistics of a piece, or comparisons in it; there are none of a single image
        yield from fewer
        yield from (Choice({"memory.micro_batch": size}, "other") for size in pieces if size > 1)
    else:
        yield from (Choice({"memory.micro_batch": size}, "rounding") for size in pieces)
        yield from fewer
    if config.memory.precision == "fp32":
        yield Choice({"memory.precision": "bf16"}, "other")


def _pieces(config: Config, largest: int) -> tuple[int | None, list[int]]:
    """Micro-batches that are smaller than now: one that divides no training batch, if there is one, and ever smaller
    ones. `largest`: images of the largest training batch."""
    batch, now = config.federated.batch_size, config.memory.micro_batch
    sizes = _halves(now) if now else [batch, *_halves(batch)]
    whole = min((size for size in sizes if size >= largest), default=EVALUATION_BATCH)
    return whole if whole < (now or EVALUATION_BATCH) else None, [size for size in sizes if size < largest]


def _halves(number: int) -> list[int]:
    """Its half, the half of that, and so on down to 1."""
    return [] if number < 2 else [number // 2, *_halves(number // 2)]


def as_overrides(values: Mapping[str, Any]) -> list[str]:
    """key=value texts."""
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def shown(values: Mapping[str, Any]) -> str:
    """The values as they are given on the command line."""
    return " ".join(f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items())
