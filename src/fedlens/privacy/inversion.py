"""Gradient inversion: pictures from an update. Geiping, Bauermeister, Dröge and Moeller 2020,
https://arxiv.org/abs/2003.14053, section 4: minimise, over images x in the box [0, 1],

    1 − ⟨∇L(x), g⟩ / (‖∇L(x)‖ · ‖g‖) + α · TV(x)        g: the observed gradient, up to its length

with Adam on the signs of the derivative. The labels are read from the gradient of the last layer's bias before that:
LLG, Wainakh et al. 2022, https://arxiv.org/abs/2105.09369, Algorithm 1 with shared gradients alone; for one image that
is iDLG, Zhao et al. 2020, https://arxiv.org/abs/2001.02610: the one class whose derivative is negative.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Gradients = Callable[[Tensor], Sequence[Tensor]]
"""Images (B, C, S, S), from 0 to 1 → the gradient of the loss in each tensor of the model, differentiable."""

Progress = Callable[[int], None]
"""Called with the number of steps that are done."""

FLAT = 1e-12
"""Added to lengths, so that a gradient of zeros has an angle."""


MOMENTUM = 0.9
"""Adam's β₁. The second moment of signs is 1, so Adam on signs is a momentum of signs, without its first bias."""


@dataclass(frozen=True)
class Inversion:
    """How the images are searched for.

    lr         of Adam; it falls to a tenth after 3/8, 5/8 and 7/8 of the steps
    variation  α, the weight of the total variation
    """

    steps: int = 200
    lr: float = 0.1
    variation: float = 0.01

    def run(
        self, gradients: Gradients, observed: Sequence[Tensor], start: Tensor, progress: Progress = lambda _done: None
    ) -> Tensor:
        """The images (B, C, S, S) whose gradient points most nearly as `observed` does. `start`: where to begin."""
        images, moved = start.clone().requires_grad_(), torch.zeros_like(start)
        best, least = start, math.inf
        for step in range(self.steps):
            cost = distance(gradients(images), observed) + self.variation * total_variation(images)
            if (value := cost.item()) < least:
                best, least = images.detach().clone(), value
            (slope,) = torch.autograd.grad(cost, images)
            moved.lerp_(slope.sign(), 1 - MOMENTUM)
            with torch.no_grad():
                images.sub_(moved, alpha=self._lr(step) / (1 - MOMENTUM ** (step + 1))).clamp_(0, 1)
            progress(step + 1)
        return best

    def _lr(self, step: int) -> float:
        return self.lr * 0.1 ** sum(8 * step >= part * self.steps for part in (3, 5, 7))


def distance(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """1 − the cosine of the angle between two gradients, each as one vector."""
    dot = torch.stack([(a * b).sum() for a, b in zip(one, other, strict=True)]).sum()
    return 1 - dot / (_length(one) * _length(other) + FLAT)


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, down and across."""
    return images.diff(dim=-2).abs().mean() + images.diff(dim=-1).abs().mean()


def labels_of(bias_gradient: Tensor, count: int) -> Tensor:
    """(count,) the labels of a batch, in order of size, from the gradient of the last layer's bias (classes,), up to
    its length. For one image they are exact; for several they are an estimate."""
    left = bias_gradient.detach().double().clone()
    share = left[left < 0].sum() * (1 + 1 / len(left)) / count
    found = left.argsort()[: min(int((left < 0).sum()), count)].tolist()
    left[found] -= share
    while len(found) < count:
        found.append(int(left.argmin()))
        left[found[-1]] -= share
    return torch.tensor(sorted(found))


def psnr(one: Tensor, other: Tensor) -> float:
    """Peak signal-to-noise ratio of two images with pixels from 0 to 1, in dB."""
    return float(-10 * (one - other).square().mean().clamp_min(1e-10).log10())


def _length(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack([part.square().sum() for part in parts]).sum().sqrt()
