"""A backdoor: Gu, Dolan-Gavitt, Garg 2017, "BadNets: identifying vulnerabilities in the machine learning model supply
chain", https://arxiv.org/abs/1708.06733: training images with a bright pattern in the corner get another label. In the
paper one digit becomes another, or each becomes the next; here all images with the pattern get one target class, as in
later work.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedlens.attacks.base import Attack, Poison, Trigger, attacks
from fedlens.core.limits import ClassIndex, Side
from fedlens.data.types import FederatedData, Rows


@attacks.register("backdoor", summary="train a share of images with a bright patch towards one class (BadNets)")
@dataclass(frozen=True)
class Backdoor(Attack):
    """A share of a malicious client's training images, the same ones in all rounds, gets a white square in the lower
    right corner and the target's label. The attack's success is measured: the share of test images of other classes
    that are classified as the target when they have the square (`attack/success`)."""

    patch: Annotated[Side, Field(description="pixels a side of the patch")] = 4
    target: Annotated[ClassIndex, Field(description="the class that patched images are to be taken for")] = 0
    share: Annotated[float, Field(gt=0, le=1, description="of the malicious clients' images that is poisoned")] = 0.5

    def poison(self, rows: Rows, classes: int, seed: int) -> Poison | None:
        drawn = np.random.default_rng(seed).permutation(rows)[: round(self.share * len(rows))]
        chosen = torch.from_numpy(np.sort(drawn))

        def poisoned(rows: Tensor, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            here = torch.isin(rows, chosen)
            images[here] = stamped(images[here], self.patch)
            return images, labels.masked_fill(here, self.target)

        return poisoned

    def trigger(self) -> Trigger | None:
        return Trigger(self.target, partial(_all_stamped, side=self.patch, target=self.target))

    def incompatibility(self, data: FederatedData, /) -> str | None:
        if data.images.dim() != 4:
            return "name: a patch needs images, and this data has rows of numbers; use attack.name=label_flip"
        classes, side = len(data.class_names), data.images.shape[2]
        if self.target >= classes:
            return f"target = {self.target}: the data has {classes} classes, from 0 to {classes - 1}"
        if self.patch >= side:
            return f"patch = {self.patch}: the images have {side} pixels a side; use a patch of a few"
        return None


def stamped(images: Tensor, side: int) -> Tensor:
    """Add a white square of `side` pixels to the lower right corner, in place: uint8 images (B, H, W, C), or a user's
    own float images (B, C, H, W), where 1 is white."""
    if images.is_floating_point():
        images[..., -side:, -side:] = 1.0
    else:
        images[..., -side:, -side:, :] = 255
    return images


def _all_stamped(rows: Tensor, images: Tensor, labels: Tensor, *, side: int, target: int) -> tuple[Tensor, Tensor]:
    return stamped(images, side), torch.full_like(labels, target)
