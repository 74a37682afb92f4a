"""Gradient inversion of an experiment's updates: the attacker knows the model, the configuration and what was sent."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from fedlens.build.builders import preprocessing_of
from fedlens.build.experiment import Experiment
from fedlens.core.seeds import derive
from fedlens.core.types import State
from fedlens.models.base import normalized
from fedlens.privacy.inversion import Inversion, Progress, distance, labels_of, psnr
from fedlens.training.device import one_thread


@dataclass(frozen=True)
class Reconstruction:
    """pictures  (B, C, S, S), each in the place of the original that it is nearest to
    labels    their classes, as the attacker believes
    psnr      of each, in dB
    """

    pictures: Tensor
    labels: tuple[int, ...]
    psnr: tuple[float, ...]


class Attacker:
    """Attacks updates that the first client has made of the model `shared`. `originals`: its images (B, C, S, S), from
    0 to 1; `labels`: (B,)."""

    def __init__(self, experiment: Experiment, shared: State, inversion: Inversion) -> None:
        data = experiment.images
        rows = torch.from_numpy(data.clients[0].train)
        self.originals = pixels(data.images.index_select(0, rows))
        self.labels = data.labels.index_select(0, rows)
        self._inversion = inversion
        self._experiment = experiment
        self._how = preprocessing_of(experiment.model, data)
        whole = {id(value): name for name, value in experiment.model.named_parameters()}
        mine = {name: whole[id(value)] for name, value in experiment.resident.module.named_parameters()}
        self._names = {name: mine[name] for name in sorted(experiment.trained)}
        self._parameters = {
            whole: shared[name].to(experiment.device).clone().requires_grad_() for name, whole in self._names.items()
        }
        self._bias = self._last_bias()

    @property
    def reads_labels(self) -> bool:
        """Labels can be read from an update: the last layer's bias is in it. Otherwise the attacker is told them."""
        return self._bias is not None

    def reconstruct(self, update: State, batch: int, progress: Progress) -> Reconstruction:
        """The client's images from an update that was made with `batch` images."""
        experiment, seed = self._experiment, derive(self._experiment.config.seed, "inversion")
        observed = [-update[name].float().to(experiment.device) for name in self._names]
        labels = self._labels(update, batch).to(experiment.device)
        start = torch.rand(batch, *self.originals.shape[1:], generator=torch.Generator().manual_seed(seed))
        experiment.model.train()
        gradients = partial(self._gradients, labels)
        with one_thread():  # the same pictures on every machine: one bit sends a search another way
            found = self._inversion.run(gradients, observed, start.to(experiment.device), progress)
        return self._in_place(found.cpu(), labels.cpu())

    def cosine(self, one: State, other: State) -> float:
        """Of the angle between two updates."""
        first, second = ([state[name].float() for name in self._names] for state in (one, other))
        return 1 - float(distance(first, second))

    def _gradients(self, labels: Tensor, images: Tensor) -> tuple[Tensor, ...]:
        logits = functional_call(self._experiment.model, self._parameters, (normalized(images, self._how),))
        smoothing = self._experiment.config.optimizer.label_smoothing
        loss = cross_entropy(logits, labels, label_smoothing=smoothing)
        return torch.autograd.grad(loss, list(self._parameters.values()), create_graph=True)

    def _labels(self, update: State, batch: int) -> Tensor:
        if self._bias is None:
            return self.labels.repeat(-(-batch // len(self.labels)))[:batch]
        return labels_of(-update[self._bias], batch)

    def _last_bias(self) -> str | None:
        """The bias of the last layer, where it travels."""
        *_, (last, value) = self._experiment.resident.module.named_parameters()
        travels = last in self._names and tuple(value.shape) == (self._experiment.classes,)
        return last if travels else None

    def _in_place(self, found: Tensor, labels: Tensor) -> Reconstruction:
        """Of the images that were found, for each original the one that is nearest: the order in a batch is unknown."""
        near = torch.tensor([[psnr(image, original) for original in self.originals] for image in found])
        chosen = torch.zeros(len(self.originals), dtype=torch.long)
        values = [0.0] * len(self.originals)
        for _ in self.originals:
            image, place = divmod(int(near.argmax()), len(self.originals))
            chosen[place], values[place] = image, float(near[image, place])
            near[image], near[:, place] = -torch.inf, -torch.inf
        return Reconstruction(found[chosen], tuple(labels[chosen].tolist()), tuple(values))


def pixels(images: Tensor) -> Tensor:
    """Stored images → (B, C, S, S), from 0 to 1."""
    return images if images.is_floating_point() else images.permute(0, 3, 1, 2).float() / 255
