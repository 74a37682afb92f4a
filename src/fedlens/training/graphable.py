"""Which steps can be replayed from a CUDA graph (`training.static_steps`), found before the first of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from fedlens.data.types import FederatedData
from fedlens.errors import OutOfMemory
from fedlens.training.algorithm import Algorithm
from fedlens.training.device import enough_memory, one_thread, repeatable
from fedlens.training.examples import Examples
from fedlens.training.flat import FlatModel
from fedlens.training.sections import TransferSection
from fedlens.training.settings import LocalSettings
from fedlens.training.static_steps import StaticSteps
from fedlens.training.vectorizable import TRIED, all_same, alone, beyond_plain_steps


def obstacle(
    model: FlatModel, algorithm: Algorithm, settings: LocalSettings, data: FederatedData, transfer: TransferSection
) -> str | None:
    """Why no step can be replayed; None: some can. Steps to whose loss a strategy adds are computed as ever."""
    return next(_reasons(model, algorithm, settings, data, transfer), None)


def _reasons(
    model: FlatModel, algorithm: Algorithm, settings: LocalSettings, data: FederatedData, transfer: TransferSection
) -> Iterator[str]:
    if model.device.type != "cuda":
        yield f"runtime.device: CUDA graphs need an NVIDIA GPU, and this is {model.device}"
    if transfer.unfreeze_every or transfer.probe_rounds:
        yield "transfer: which parts of the model are trained changes from round to round"
    yield from beyond_plain_steps(model, algorithm, settings, data)


def can_pad(model: FlatModel, settings: LocalSettings, examples: Examples) -> bool:
    """Whether a batch that is filled up has the gradient of the batch alone: it has not where rows of a batch depend on
    each other (BatchNorm), nor where numbers are drawn for each row (dropout). Tried with some images; the model is
    left as it was.

    Raises:
        OutOfMemory: the memory of the GPU or of the machine is full.
    """
    if len(examples) < TRIED:
        return False
    exact = settings.memory.model_copy(update={"precision": "fp32"})
    settings = replace(settings, memory=exact, batch_size=TRIED)
    batches = [examples.raw(torch.from_numpy(examples.rows[: TRIED // 2 + 1]), None)]
    prepare = examples.prepare
    examples = replace(examples, prepare=lambda images: _unlike(prepare(images)))
    filled_up = StaticSteps(model, settings, pads=True, graphs=None)
    try:
        with enough_memory(), repeatable(0, model.device), one_thread():
            as_ever, filled = (alone(model, settings, examples, batches, step) for step in (None, filled_up))
            return all_same(filled, as_ever)
    except OutOfMemory:
        raise
    except Exception:  # a model of one's own may raise anything, and does so again where it is computed as ever
        return False


def _unlike(inputs: Tensor) -> Tensor:
    """With a first row, the one that batches are filled up with, that is unlike the others: were it alike, it would
    hardly change what is computed of all rows."""
    return torch.cat([4 * inputs[:1], inputs[1:]])
