"""Whether clients can train together (`training.vectorized`), found before the first of them does."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from fedlens.data.types import FederatedData
from fedlens.errors import OutOfMemory
from fedlens.models.base import OwnObjective
from fedlens.personalization.base import Personalization
from fedlens.strategies.base import LocalTerms
from fedlens.training.algorithm import Algorithm
from fedlens.training.device import enough_memory, one_thread, repeatable
from fedlens.training.dropout import ClientDraws
from fedlens.training.examples import Batch, Examples
from fedlens.training.flat import FlatModel
from fedlens.training.loop import LocalLoop, PlainStep, unseen
from fedlens.training.settings import LocalSettings
from fedlens.training.static_steps import restored, same
from fedlens.training.vectorized import StackedLoop, StackedModel

TRIED = 8
"""Images of the larger of the two batches that are tried; the other one has half as many. With BatchNorm, rounding
changes gradients of smaller batches by more than is allowed here."""

MOVED = 0.05
"""How far parameters are moved before they are tried: what is 0 at first, as the last norm of a residual block, would
hide a difference."""


@dataclass(frozen=True)
class Vectorizing:
    """obstacle: why clients train one after the other; None: they can train together. pads, maps: see `StackedLoop`."""

    obstacle: str | None = None
    pads: bool = False
    maps: torch.memory_format = torch.channels_last


def vectorizing(model: FlatModel, algorithm: Algorithm, settings: LocalSettings, examples: Examples) -> Vectorizing:
    """`examples`: some images to try it with; the model is left as it was."""
    reason = next(_reasons(model, algorithm, settings, examples), None)
    return Vectorizing(reason) if reason else _tried(model, settings, examples)


def _reasons(model: FlatModel, algorithm: Algorithm, settings: LocalSettings, examples: Examples) -> Iterator[str]:
    """What is known without trying."""
    yield from beyond_plain_steps(model, algorithm, settings, examples.data)
    personal = type(algorithm.personalization)
    if personal.train is not Personalization.train:
        yield f"personalization.name: {personal.__name__} trains the parts of a model in an order of its own"
    if len(examples) < TRIED:
        yield f"the clients have fewer than {TRIED} images"


def beyond_plain_steps(
    model: FlatModel, algorithm: Algorithm, settings: LocalSettings, data: FederatedData
) -> Iterator[str]:
    """Why a step is more than one pass of a batch of images forward and back, and its cross-entropy."""
    memory = settings.memory
    if algorithm.dp_sgd is not None:
        yield "privacy.mode clips the gradient of each image"
    if isinstance(model.module, OwnObjective):
        yield "model.name: this model has a loss of its own"
    if data.text_inputs is not None:
        yield "model.name: this model reads texts"
    if memory.precision == "fp16":
        yield "memory.precision=fp16 repeats single steps whose gradient overflows"
    if memory.micro_batch is not None:
        yield "memory.micro_batch cuts batches into pieces"
    if memory.gradient_checkpointing:
        yield "memory.gradient_checkpointing computes parts of the model again"
    if settings.training.mixup:
        yield "optimizer.mixup mixes the images of a batch"


def _tried(model: FlatModel, settings: LocalSettings, examples: Examples) -> Vectorizing:
    """Two clients' gradients, computed together and one after the other: a model may draw at random, look at numbers,
    or let the rows of a batch depend on each other."""
    rows = torch.from_numpy(examples.rows)
    batches = [examples.raw(some, None) for some in (rows[:TRIED], rows[: TRIED // 2])]
    try:
        with enough_memory(), repeatable(0, model.device), one_thread(), _no_slow_way():
            _together(model, settings, examples, batches, Vectorizing())
            exact = replace(settings, memory=settings.memory.model_copy(update={"precision": "fp32"}))
            expected = alone(model, exact, examples, batches, draws=_draws(model, len(batches)))
            for pads, maps in product((True, False), (torch.channels_last, torch.contiguous_format)):
                way = Vectorizing(pads=pads, maps=maps)
                if all_same(_together(model, exact, examples, batches, way), expected):
                    return way
    except OutOfMemory:
        raise
    except Exception as error:  # a model of one's own may raise anything
        said = (str(error) or type(error).__name__).splitlines()[0].partition(". ")[0]
        return Vectorizing(f"model.name: PyTorch cannot compute this model for several clients at once ({said})")
    return Vectorizing("model.name: computed for several clients at once, this model has other gradients")


Found = tuple[Tensor, ...]
"""A client's gradient (P,), and its running statistics, and what else its model remembers, after the step."""


def alone(
    model: FlatModel,
    settings: LocalSettings,
    examples: Examples,
    batches: Sequence[Batch],
    plain_step: PlainStep | None = None,
    draws: ClientDraws | None = None,
) -> list[Found]:
    """One after the other, each with its own random numbers, if there are `draws`. The model is left as it was."""
    found = []
    for row, (images, labels) in enumerate(batches):
        with _moved(model, row), nullcontext() if draws is None else draws.of(row):
            loop = LocalLoop(model, settings, LocalTerms(), plain_step=plain_step)
            loop.differentiate(examples.ready(images), labels.to(model.device), torch.Generator())
            found.append((model.gradient.clone(), *_remembered(model)))
    return found


def _together(
    model: FlatModel, settings: LocalSettings, examples: Examples, batches: Sequence[Batch], way: Vectorizing
) -> list[Found]:
    stack, found = StackedModel(model, len(batches)), []
    for row in range(len(batches)):
        with _moved(model, row):
            stack.take(row)
    draws = _draws(model, len(batches))
    loop = StackedLoop(stack, settings, examples.ready, draws, pads=way.pads, maps=way.maps, stepped=unseen)
    loop.differentiate(batches, [LocalTerms()] * len(batches))
    for row in range(len(batches)):
        with _moved(model, row):
            stack.give(row)
            found.append((stack.gradients[row], *_remembered(model)))
    return found


def _draws(model: FlatModel, clients: int) -> ClientDraws:
    """Different ones for each client, and every time the same."""
    found = ClientDraws(model.device)
    for row in range(clients):
        with repeatable(row, model.device):
            found.keep()
    return found


def _remembered(model: FlatModel) -> list[Tensor]:
    return [value.clone() for value in model.module.buffers() if value.is_floating_point()]


@contextmanager
def _moved(model: FlatModel, row: int) -> Iterator[None]:
    """The model with parameters of its own for a row; afterwards it is as it was."""
    before, mode = model.vector.clone(), model.module.training
    noise = torch.randn(len(model.vector), generator=torch.Generator().manual_seed(row))
    model.vector.add_(noise.to(model.device), alpha=MOVED)
    try:
        with restored(model.module):
            yield
    finally:
        model.vector.copy_(before)
        model.module.train(mode)


@contextmanager
def _no_slow_way() -> Iterator[None]:
    """Where PyTorch would compute a layer client by client, it raises an error instead of a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "There is a performance drop")
        yield


def all_same(these: Sequence[Found], others: Sequence[Found]) -> bool:
    """Whether what was found for the same batches in two ways is equal but for rounding."""
    pairs = (pair for one, other in zip(these, others, strict=True) for pair in zip(one, other, strict=True))
    return all(same(one, other) for one, other in pairs)
