"""Gradients of plain batches from tensors that keep their place, so that one CUDA graph serves all clients of a
process.

The resident model's parameters are views of one vector, and their gradients of another, so both keep their place from
client to client, and so do the running statistics. Inputs and labels are copied into tensors of their own. Only the
gradient is computed so: corrections, clipping and the optimizer's step are a few calls on one vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from fedlens.core.labels import UNLABELLED
from fedlens.models.base import doubled_if_single
from fedlens.training.cuda_graphs import Play
from fedlens.training.flat import FlatModel
from fedlens.training.loop import cross_entropy, recognised
from fedlens.training.precision import autocast
from fedlens.training.settings import LocalSettings

PATIENCE = 3
"""Batches of a size that are computed before the next one is captured: a short run does not pay for it."""

CLOSE = 0.003
"""The largest relative distance of two gradients that are the same but for rounding, with TF32 on a GPU. Where padding
changes a gradient, the distance has been above 0.02."""


class Graphs(Protocol):
    """What captures computations, as `CudaGraphs` does."""

    def capture(self, compute: Play) -> Play: ...

    def pays(self, replay: Play, compute: Play) -> bool: ...


class StaticStep:
    """The gradient of a batch of at most `width` rows. A smaller batch is filled up with its first row, which has no
    label there: the cross-entropy leaves rows without one out of its sum and of what it divides by.

    inputs   (width, …), in the memory order of the batches
    labels   (width,)
    loss     ()
    correct  (width,) whether a row was recognised
    """

    def __init__(self, model: FlatModel, settings: LocalSettings, inputs: Tensor, labels: Tensor, width: int) -> None:
        like = torch.empty_like(inputs)
        self.inputs = like.new_empty_strided((width, *like.shape[1:]), like.stride())
        self.labels = labels.new_empty(width)
        self.loss = model.gradient.new_empty(())
        self.correct = labels.new_empty(width, dtype=torch.bool)
        self.seen = 0
        self.play: Play = self.compute
        self._model = model
        self._settings = settings

    def fill(self, inputs: Tensor, labels: Tensor) -> None:
        rows = len(labels)
        self.inputs[:rows].copy_(inputs)
        self.labels[:rows].copy_(labels)
        if rows < len(self.labels):
            self.inputs[rows:].copy_(inputs[:1].expand_as(self.inputs[rows:]))
            self.labels[rows:].fill_(UNLABELLED)

    def compute(self) -> None:
        """Write the gradient to the model's `gradient`."""
        model, settings = self._model, self._settings
        model.gradient.zero_()
        with autocast(settings.memory.precision, model.device):
            logits = doubled_if_single(model.module, self.inputs)
        loss = cross_entropy(logits, self.labels, settings.training)
        loss.backward()
        self.loss.copy_(loss.detach())
        self.correct.copy_(recognised(logits, self.labels))


class StaticSteps:
    """Of all clients of a process, one step for each width: a batch's rows are filled up to the whole batch size, or to
    the half of it, or the half of that, …

    pads    smaller batches may be filled up, because no layer lets the rows of a batch depend on each other; otherwise
            only whole batches are computed here
    graphs  what captures a step; None: nothing does. Whether a step is replayed or computed changes no number but by
            rounding, nor does it change which batches are filled up
    """

    def __init__(self, model: FlatModel, settings: LocalSettings, *, pads: bool, graphs: Graphs | None) -> None:
        self._model = model
        self._settings = settings
        self._pads = pads
        self._graphs = graphs
        self._steps: dict[tuple[object, ...], StaticStep] = {}

    def __call__(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor] | None:
        """Write the batch's gradient to the model's `gradient`; gives its loss (), and which of its rows were
        recognised (B,). None: nothing was done, and the batch is to be computed in another way."""
        width = self._width(len(labels))
        if width is None:
            return None
        place = (width, inputs.shape[1:], inputs.dtype)
        if (step := self._steps.get(place)) is None:
            step = self._steps[place] = StaticStep(self._model, self._settings, inputs, labels, width)
        step.fill(inputs, labels)
        step.seen += 1
        if self._graphs is not None and step.seen == PATIENCE + 1:
            step.play = self._faster(step.compute, self._graphs)
        step.play()
        return step.loss.clone(), step.correct[: len(labels)].clone()

    def _width(self, rows: int) -> int | None:
        width = self._settings.batch_size
        if not 0 < rows <= width or (rows < width and not self._pads):
            return None
        while width // 2 >= rows:
            width //= 2
        return width

    def _faster(self, compute: Play, graphs: Graphs) -> Play:
        """The replay of `compute`, if it can be captured, gives the same gradient, and pays; otherwise `compute`."""
        places = _places(self._model.module)
        try:
            with self._untouched():
                replay = graphs.capture(compute)
                if _places(self._model.module) != places:  # a replay would not see where they are next time
                    return compute
            if not same(self._gradient(replay), self._gradient(compute)):
                return compute
            with self._untouched():
                return replay if graphs.pays(replay, compute) else compute
        except Exception:  # a model of one's own may raise anything; whether memory is full shows when it is computed
            return compute

    def _gradient(self, play: Play) -> Tensor:
        with self._untouched():
            play()
        return self._model.gradient.clone()

    @contextmanager
    def _untouched(self) -> Iterator[None]:
        """Afterwards the module is as it was, and the next random draws are those that would have come before."""
        device = self._model.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []), restored(self._model.module):
            yield


@contextmanager
def restored(module: nn.Module) -> Iterator[None]:
    """Afterwards the module's buffers, as its running statistics, are what and where they were."""
    before = [
        (owner, name, value, value.clone())
        for owner in module.modules()
        for name, value in owner.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        for owner, name, value, old in before:
            setattr(owner, name, value.copy_(old))


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal but for rounding."""
    return torch.equal(one, other) or bool((one - other).norm() <= CLOSE * other.norm())


def _places(module: nn.Module) -> list[int]:
    return [value.data_ptr() for value in module.buffers()]
