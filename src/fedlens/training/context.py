"""One client's training context: a personalisation's access to the resident model, the images and the training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from fedlens.core.types import Metrics, State
from fedlens.models.base import doubled_if_single
from fedlens.personalization.base import NO_TERMS, Batch, Gradients, LocalTrainingContext, Optimizer
from fedlens.privacy.dp_sgd import PrivateSteps
from fedlens.strategies.base import LocalTerms
from fedlens.training.examples import Examples
from fedlens.training.flat import FlatModel
from fedlens.training.loop import LocalLoop, PlainStep, Stepped, unseen
from fedlens.training.optimizers.base import VectorOptimizer
from fedlens.training.optimizers.sgd import SGD
from fedlens.training.precision import autocast
from fedlens.training.settings import LocalSettings


class ResidentTrainingContext(LocalTrainingContext):
    """Created after the task's model is loaded. `optimizer`: the one whose state is stored; `private`: names of private
    tensors; `private`: the steps that hide single images, if any; `plain_step`: see `LocalLoop`."""

    def __init__(
        self,
        model: FlatModel,
        settings: LocalSettings,
        examples: Examples,
        optimizer: VectorOptimizer,
        generator: torch.Generator,
        *,
        round_number: int,
        client: str,
        lr: float,
        kept: State,
        stepped: Stepped = unseen,
        private: PrivateSteps | None = None,
        plain_step: PlainStep | None = None,
    ) -> None:
        self.round = round_number
        self.client = client
        self.examples = len(examples)
        self.epochs = settings.epochs
        self.lr = lr
        self.kept = kept
        self.start = model.vector.clone()
        self._model = model
        self._settings = settings
        self._examples = examples
        self.optimizer = optimizer
        self._generator = generator
        self._stepped = stepped
        self._private = private
        self._plain_step = plain_step
        self.waited = 0.0
        """Seconds in which batches of images were waited for: to read, augment and prepare them."""

    @property
    def module(self) -> nn.Module:  # type: ignore[override]
        return self._model.module

    @property
    def vector(self) -> Tensor:  # type: ignore[override]
        return self._model.vector

    @property
    def step_scale(self) -> Tensor | None:  # type: ignore[override]
        return self._model.step_scale

    def fit(
        self,
        over: int | Iterable[Batch],
        terms: LocalTerms = NO_TERMS,
        *,
        step_scale: Tensor | None = None,
        lr: float | None = None,
        optimizer: Optimizer = "kept",
    ) -> Metrics:
        batches = self.batches(over) if isinstance(over, int) else over
        stepping = self._optimizer_called(optimizer)
        return self._loop(terms, step_scale).run(
            batches, stepping, self.lr if lr is None else lr, self._generator, step_scale
        )

    def batches(self, epochs: int) -> Iterator[Batch]:
        if self._private is not None:
            return self._timed(self._examples.chosen(self._private.batches(), self._generator))
        return self._timed(self._examples.epochs(epochs, self._settings.batch_size, self._generator))

    def raw_batches(self, epochs: int) -> Iterator[Batch]:
        """As `batches`, images being as the data has them, and where they are (`Examples.raw`)."""
        return self._timed(self._examples.raw_epochs(epochs, self._settings.batch_size, self._generator))

    def ready(self, images: Tensor) -> Tensor:
        """Such images, of any clients, as inputs of the model."""
        return self._examples.ready(images)

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - began
            if batch is None:
                return
            yield batch

    def gradients(self, terms: LocalTerms = NO_TERMS, *, step_scale: Tensor | None = None) -> Gradients:
        return _LoopGradients(self._model, self._loop(terms, step_scale), self._generator)

    def observe(self, batch: Batch) -> None:
        self._model.train()
        with torch.no_grad(), autocast(self._settings.memory.precision, self._model.device):
            doubled_if_single(self._model.module, batch[0])

    def stepper(self) -> Callable[[Tensor, Tensor], None]:
        return partial(self._optimizer_called("fresh").scaled_step, lr=self.lr, step_scale=self.step_scale)

    def statistics(self) -> dict[str, Tensor]:
        return self._model.statistics()

    def state(self) -> dict[str, Tensor]:
        return self._model.state()

    def load(self, state: State) -> None:
        self._model.load(state)

    def mask(self, names: frozenset[str]) -> Tensor:
        return self._model.mask(names)

    def flatten(self, state: State) -> Tensor:
        return self._model.flatten(state)

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        return self._model.unflatten(vector)

    def _loop(self, terms: LocalTerms, step_scale: Tensor | None) -> LocalLoop:
        moved = None if step_scale is None else self._model.within(step_scale)
        return LocalLoop(self._model, self._settings, terms, moved, self._stepped, self._private, self._plain_step)

    def _optimizer_called(self, name: Optimizer) -> VectorOptimizer:
        if name == "kept":
            return self.optimizer
        return VectorOptimizer(SGD(momentum=0.0) if name == "plain" else self._settings.optimizer, {})


class _LoopGradients:
    """Gradients computed by the shared loop, without its optimizer steps."""

    def __init__(self, model: FlatModel, loop: LocalLoop, generator: torch.Generator) -> None:
        self._model = model
        self._loop = loop
        self._generator = generator

    def __call__(self, batch: Batch) -> Tensor:
        if not self._loop.differentiate(*batch, self._generator):
            self._model.gradient.zero_()
        return self._model.gradient

    def metrics(self) -> Metrics:
        return self._loop.metrics()
