"""Gradient inversion against the closed form of a linear model, and labels against counts."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from fedlens.privacy.inversion import Inversion, distance, labels_of, psnr

IMAGE = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(1))
WEIGHT = torch.randn(4, 36, generator=torch.Generator().manual_seed(2)).mul_(0.1).requires_grad_()
BIAS = torch.zeros(4, requires_grad=True)
LABEL = torch.tensor([2])


def gradients(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    loss = cross_entropy(images.flatten(1) @ WEIGHT.T + BIAS, LABEL)
    return torch.autograd.grad(loss, (WEIGHT, BIAS), create_graph=True)


def found(noise: float) -> torch.Tensor:
    """From the gradient with noise of `noise` times its root mean square."""
    generator = torch.Generator().manual_seed(3)
    observed = [part.detach() for part in gradients(IMAGE)]
    observed = [
        part + noise * part.square().mean().sqrt() * torch.randn(part.shape, generator=generator) for part in observed
    ]
    start = torch.rand(IMAGE.shape, generator=generator)
    return Inversion(steps=150, variation=0.0).run(gradients, observed, start)


def test_a_linear_model_gives_the_image_away() -> None:
    """∂L/∂W = (p − y) xᵀ and ∂L/∂b = p − y, so a row of the first, divided by its number of the second, is x."""
    weight, bias = (part.detach() for part in gradients(IMAGE))
    closed = (weight[2] / bias[2]).view(IMAGE.shape)
    torch.testing.assert_close(closed, IMAGE)
    assert psnr(found(0.0), closed) > 35


def test_noise_hides_more_and_more() -> None:
    quality = [psnr(found(noise), IMAGE) for noise in (0.0, 0.3, 30.0)]
    assert quality == sorted(quality, reverse=True)
    assert quality[-1] < 12


def test_the_label_of_one_image_is_the_negative_derivative() -> None:
    assert labels_of(gradients(IMAGE)[1], 1).tolist() == [2]
    assert labels_of(0.001 * gradients(IMAGE)[1], 1).tolist() == [2]  # the length does not count


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, 0, 1], [3, 3, 3], [1, 1, 4, 4]])
def test_labels_of_a_batch(labels: list[int]) -> None:
    """A network that knows nothing gives each of five classes 1/5: the derivative is 1/5 − count / batch."""
    counts = torch.bincount(torch.tensor(labels), minlength=5)
    assert labels_of(0.2 - counts / len(labels), len(labels)).tolist() == labels


def test_psnr_and_distance() -> None:
    assert psnr(torch.zeros(4), torch.full((4,), 0.1)) == pytest.approx(20)  # −10 log₁₀ 0.01
    one, other = [torch.tensor([1.0]), torch.tensor([0.0])], [torch.tensor([1.0]), torch.tensor([1.0])]
    assert float(distance(one, other)) == pytest.approx(1 - math.sqrt(0.5))
