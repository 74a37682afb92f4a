"""Random augmentation of training images, on uint8 batches.

Each image of a batch draws its own change from the given generator, so results are repeatable.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from fedlens.errors import DataError


class Augment(Protocol):
    """uint8 (B, S, S, C) → a new tensor of the same shape and dtype."""

    def __call__(self, images: Tensor, generator: Generator) -> Tensor: ...


def augmentation(name: Literal["none", "flip", "crop_flip", "randaugment"]) -> Augment | None:
    """The augmentation called `name` in `data.augment`; None for "none".

    flip         half of the images are mirrored horizontally
    crop_flip    flip, and a shift by up to an eighth of the side, filled with black (He et al., "Deep Residual
                 Learning", CVPR 2016, section 4.2: 4 pixels of 32)
    randaugment  crop_flip, and two operations of magnitude 9 (Cubuk et al., "RandAugment", NeurIPS 2020), by
                 torchvision
    """
    known: dict[str, Augment | None] = {"none": None, "flip": flip, "crop_flip": crop_flip, "randaugment": randaugment}
    return known[name]


def flip(images: Tensor, generator: Generator) -> Tensor:
    """Mirror each image left to right with probability one half."""
    _check(images)
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(mirrored.to(images.device, non_blocking=True)[:, None, None, None], images.flip(2), images)


def crop_flip(images: Tensor, generator: Generator) -> Tensor:
    """Shift each image by up to an eighth of its shorter side in both directions, then `flip`."""
    _check(images)
    height, width = images.shape[1:3]
    margin = min(height, width) // 8
    padded = pad(images, (0, 0, margin, margin, margin, margin))
    corners = torch.randint(0, 2 * margin + 1, (len(images), 2), generator=generator).tolist()
    crops = [image[top : top + height, left : left + width] for image, (top, left) in zip(padded, corners, strict=True)]
    return flip(torch.stack(crops) if crops else images, generator)


def randaugment(images: Tensor, generator: Generator) -> Tensor:
    """`crop_flip`, then torchvision's RandAugment image by image."""
    from torchvision.transforms.v2 import RandAugment

    operations = RandAugment(num_ops=2, magnitude=9)
    moved = crop_flip(images, generator)
    seed = int(torch.randint(0, 2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):  # RandAugment takes no generator: seed the global one for the call
        torch.default_generator.manual_seed(seed)
        changed = [operations(image.permute(2, 0, 1)).permute(1, 2, 0) for image in moved]
    return torch.stack(changed) if changed else moved


def _check(images: Tensor) -> None:
    if images.dtype != torch.uint8:
        raise DataError(f"data.augment works on uint8 images, not on {images.dtype} tensors; set data.augment to none")
