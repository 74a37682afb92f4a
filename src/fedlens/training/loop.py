"""The one local training loop. Algorithms add terms to it; they never copy it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedlens.core.labels import UNLABELLED
from fedlens.core.types import MeanMetric
from fedlens.errors import ConfigError
from fedlens.models.base import OwnObjective, Recognizer, doubled_if_single
from fedlens.models.statistics import still_statistics
from fedlens.privacy.dp_sgd import PrivateSteps
from fedlens.strategies.base import LocalTerms
from fedlens.training.depthwise import large_depthwise, quick_gradients
from fedlens.training.device import read
from fedlens.training.examples import Batch
from fedlens.training.flat import FlatModel
from fedlens.training.image_gradients import ImageGradients
from fedlens.training.optimizers.base import VectorOptimizer
from fedlens.training.precision import LossScale, autocast
from fedlens.training.sections import OptimizerSection
from fedlens.training.settings import LocalSettings

Stepped = Callable[[], None]
"""Called after every gradient computation."""

PlainStep = Callable[[Tensor, Tensor], tuple[Tensor, Tensor] | None]
"""Another way to compute the gradient of a plain batch (`training.static_steps`): writes it to the model's `gradient`,
and gives the batch's loss (), and which of its rows were recognised (B,). None: this batch is not for it."""


def unseen() -> None:
    """The default callback: does nothing."""


BEFORE, AFTER = "loss_before", "loss_after"
"""Metric names for the loss on the first batch, before any step, and on the last one, before the last step. Over a
round's clients, the first tells how well the received model fits their images, the second how well their own does.
Where batches have no labels, those of the first and last one that has."""

CLIPPED = "clipped"
"""Metric name for the share of steps whose gradient was longer than the largest norm allowed."""

STEPS = "steps"
"""Metric name for the number of steps taken; batches skipped because their gradient overflowed fp16 do not count."""


def nothing_seen() -> dict[str, MeanMetric]:
    """The metrics of a training without any row that has a label."""
    return {"loss": MeanMetric(0.0, 0.0), "accuracy": MeanMetric(0.0, 0.0)}


@dataclass
class Tally:
    """Losses and accuracies of the steps, and whether their gradients were clipped, kept on the device; read once at
    the end, so that no step waits for the device.

    labelled  () how many of a batch's rows have a label; empty: all have
    """

    losses: list[Tensor] = field(default_factory=list)
    correct: list[Tensor] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    labelled: list[Tensor] = field(default_factory=list)
    clipped: list[Tensor] = field(default_factory=list)

    def is_finite(self, since: int) -> bool:
        """Whether all losses from number `since` on are finite, of batches with labels."""
        losses = self.losses[since:]
        if not losses:
            return True
        unlabelled = torch.stack(self.labelled[since:]) == 0 if self.labelled else False
        return bool((torch.stack(losses).isfinite() | unlabelled).all())

    def forget(self, since: int) -> None:
        """Drop the values from number `since` on; their batch is repeated."""
        del self.losses[since:], self.correct[since:], self.sizes[since:], self.labelled[since:]

    def metrics(self) -> dict[str, MeanMetric]:
        if not self.losses:
            return nothing_seen()
        steps = len(self.losses)
        means = torch.stack(self.losses).float()
        sizes = torch.stack(self.labelled) if self.labelled else torch.tensor(self.sizes, device=means.device)
        losses = torch.where(sizes > 0, means * sizes, 0.0)  # the mean over no row is no number
        clipped = torch.stack(self.clipped).sum() if self.clipped else means.new_zeros(())
        total, correct, shortened, *each = read(losses.sum(), torch.cat(self.correct).sum(), clipped, *losses, *sizes)
        labelled = [MeanMetric(loss, size) for loss, size in zip(each[:steps], each[steps:], strict=True) if size]
        if not labelled:
            return nothing_seen()
        examples = sum(step.weight for step in labelled)
        return {
            "loss": MeanMetric(total, examples),
            "accuracy": MeanMetric(correct, examples),
            BEFORE: labelled[0],
            AFTER: labelled[-1],
            **({CLIPPED: MeanMetric(shortened, len(self.clipped))} if self.clipped else {}),
        }


class LocalLoop:
    """Trains a resident model on one client's batches. `moved`: the only parameters that need a gradient;
    backpropagation stops at the first of them. `stepped` is called after every gradient computation. `private`: the
    steps that hide single images. `plain_step` computes the batches to whose loss nothing is added."""

    def __init__(
        self,
        model: FlatModel,
        settings: LocalSettings,
        terms: LocalTerms,
        moved: Sequence[nn.Parameter] | None = None,
        stepped: Stepped = unseen,
        private: PrivateSteps | None = None,
        plain_step: PlainStep | None = None,
    ) -> None:
        self._model = model
        self._settings = settings
        self._terms = terms
        self._moved = moved
        self._stepped = stepped
        self._private = self._by_image(private) if private else None
        self._scale = LossScale(settings.memory.precision)
        self._tally = Tally()
        self._added: Tensor | None = None
        plain = terms.loss is None and terms.features is None  # other terms may do with the model what they want
        self._plain_step = plain_step if plain and moved is None else None
        self._large_depthwise = large_depthwise(model.module) if plain and model.device.type == "cpu" else []

    def run(
        self,
        batches: Iterable[Batch],
        optimizer: VectorOptimizer,
        lr: float,
        generator: torch.Generator,
        share: Tensor | None = None,
    ) -> dict[str, MeanMetric]:
        """Train on `batches`; returns loss and accuracy over the images seen, as weighted means.

        step_scale  (P,) factor of each parameter's step, from 0 (unchanged) to 1; None: 1 everywhere
        """
        model = self._model
        share = model.step_scale if share is None else share if model.step_scale is None else share * model.step_scale
        steps = 0
        for inputs, labels in batches:
            if not self.differentiate(inputs, labels, generator):
                continue
            steps += 1
            if self._terms.correction is not None:
                model.gradient.add_(self._terms.correction(model.vector))
            optimizer.scaled_step(model.vector, model.gradient, lr, share)
        return {**self.metrics(), STEPS: MeanMetric(steps, 1)}

    def metrics(self) -> dict[str, MeanMetric]:
        """Loss and accuracy over the images seen, as weighted means, and those named above; over no image where single
        images are hidden."""
        return self._tally.metrics()

    def differentiate(self, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> bool:
        """Write the batch's clipped gradient to the model's `gradient`. False: it overflowed and must not be used."""
        self._stepped()
        model, clip = self._model, self._settings.training.clip_norm
        model.train()
        if self._private is not None:
            self._private(inputs, labels)
        elif not self._differentiate(inputs, labels, generator):
            return False
        if clip is not None:
            norm = model.gradient.norm()
            self._tally.clipped.append(norm > clip)
            model.gradient.mul_(clip_factor(norm, clip))
        return True

    def _by_image(self, private: PrivateSteps) -> Callable[[Tensor, Tensor], None]:
        """Writes the noisy mean of the clipped gradients of a batch's images to the model's `gradient`.

        Raises:
            ConfigError: a term of the loss has no share of each image.
        """
        if self._terms.loss is not None or self._terms.features is not None:
            raise ConfigError(
                "strategy.name: this strategy adds to the loss of a batch, of which privacy.mode=example cannot clip "
                "the gradient of each image; use fedavg or fedprox",
                code="incompatible",
                key="strategy.name",
            )
        training, memory = self._settings.training, self._settings.memory
        gradients = ImageGradients(
            self._model,
            clip=private.clip,
            label_smoothing=training.label_smoothing,
            precision=memory.precision,
            piece=memory.micro_batch,
            moved=self._moved,
        )

        def differentiate(inputs: Tensor, labels: Tensor) -> None:
            gradients.add_clipped(inputs, labels)
            private.add_noise(self._model.gradient)

        return differentiate

    def _differentiate(self, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> bool:
        """Write the batch's gradient to the model's `gradient`. False: it overflowed and must not be used."""
        model = self._model
        seen, draws = len(self._tally.sizes), generator.get_state()
        self._backward(inputs, labels, generator)
        while not self._scale.unscale(model.gradient):
            if self._scale.spent or not self._tally.is_finite(seen):
                return False
            self._tally.forget(seen)
            generator.set_state(draws)
            with still_statistics(model.module):
                self._backward(inputs, labels, generator)
        return True

    def _backward(self, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> None:
        """The batch's gradient, computed in pieces of `micro_batch` images if that is set."""
        if self._plain_step is not None and (found := self._plain_step(inputs, labels)) is not None:
            self._tell(*found)
            return
        self._model.gradient.zero_()
        size = self._settings.memory.micro_batch or len(labels)
        with quick_gradients(self._large_depthwise):
            if size >= len(labels):
                self._pull_back(self._loss(inputs, labels, generator))
                return
            for piece, truth in zip(inputs.split(size), labels.split(size), strict=True):
                loss = self._loss(piece, truth, generator) * (len(truth) / len(labels))
                self._pull_back(loss)

    def _pull_back(self, loss: Tensor) -> None:
        if self._moved is None or self._moved:  # empty: this phase trains only frozen parameters
            self._scale.scaled(loss).backward(inputs=self._moved)

    def _loss(self, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        if isinstance(self._model.module, OwnObjective):
            with autocast(self._settings.memory.precision, self._model.device):
                logits, loss, features = self._model.module.objective(inputs, labels, self._cross_entropy)
                self._add(inputs, features, labels)
            self._tell_labelled(logits.detach(), labels)
        elif self._settings.training.mixup:
            logits, loss = self._mixed(inputs, labels, generator)
            self._tell(loss, recognised(logits, labels))
        else:
            logits = self._forward(inputs, labels)
            loss = self._cross_entropy(logits, labels)
            self._tell(loss, recognised(logits, labels))
        if self._terms.loss is not None:
            loss = loss + self._terms.loss(self._model.module, inputs, logits, labels)
        return loss if self._added is None else loss + self._added

    def _tell(self, loss: Tensor, correct: Tensor) -> None:
        self._tally.losses.append(loss.detach())
        self._tally.correct.append(correct)
        self._tally.sizes.append(len(correct))

    def _tell_labelled(self, logits: Tensor, labels: Tensor) -> None:
        """Note the cross-entropy of the rows that have a label: it is to be compared with that of images held out,
        which a model's own loss is not."""
        self._tell(self._cross_entropy(logits, labels), recognised(logits, labels))
        self._tally.labelled.append((labels != UNLABELLED).sum())

    def _mixed(self, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        share, partners = mixing(len(labels), self._settings.training.mixup, generator)
        logits = self._forward(inputs.lerp(inputs[partners], 1 - share), labels)
        own, other = self._cross_entropy(logits, labels), self._cross_entropy(logits, labels[partners])
        return logits, own.lerp(other, 1 - share)

    def _forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Logits; a term on the features is left in `_added`, so that no second forward pass is needed."""
        with autocast(self._settings.memory.precision, self._model.device):
            if self._terms.features is None:
                return doubled_if_single(self._model.module, inputs)
            logits, features = logits_and_features(self._model.module, inputs)
            self._add(inputs, features, labels)
            return logits

    def _add(self, inputs: Tensor, features: Tensor, labels: Tensor) -> None:
        """Leaves the term on the features in `_added`."""
        if self._terms.features is not None:
            self._added = self._terms.features(inputs, features, labels)

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits, labels, self._settings.training)


def cross_entropy(logits: Tensor, labels: Tensor, training: OptimizerSection) -> Tensor:
    """(B, classes) → (), the mean over the rows that have a label."""
    return F.cross_entropy(logits.float(), labels, label_smoothing=training.label_smoothing)


def recognised(logits: Tensor, labels: Tensor) -> Tensor:
    """(B,) whether a row's largest logit is that of its label."""
    return logits.detach().argmax(1) == labels


def logits_and_features(module: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """What a `Recognizer` gives for the inputs, and what its backbone does."""
    recognizer = cast(Recognizer, module)  # the `incompatibility` of strategies with a term on features ensures it
    features = doubled_if_single(recognizer.backbone, inputs)
    return recognizer.head(features), features


def clip_factor(norm: Tensor, clip: float) -> Tensor:
    """What a gradient of that norm is multiplied with, as in torch.nn.utils.clip_grad_norm_."""
    return torch.clamp(clip / (norm + 1e-6), max=1.0)


def mixing(size: int, alpha: float, generator: torch.Generator) -> tuple[float, Tensor]:
    """Mixup's weight λ ~ Beta(α, α) and partner indices j: Zhang et al. 2018, https://arxiv.org/abs/1710.09412, eq. 1:
    x̃ = λ xᵢ + (1 − λ) xⱼ. Mixing the labels equals mixing two cross-entropies with the same weights."""
    seed = int(torch.randint(2**62, (), generator=generator))
    share = float(np.random.default_rng(seed).beta(alpha, alpha))
    return share, torch.randperm(size, generator=generator)
