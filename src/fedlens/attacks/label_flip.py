"""Label flipping: Fang, Cao, Jia, Gong 2020, "Local model poisoning attacks to Byzantine-robust federated learning",
https://arxiv.org/abs/1911.11815, the label flipping of its experiments: label l becomes L − l − 1, of L classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedlens.attacks.base import Attack, Poison, attacks
from fedlens.core.labels import UNLABELLED
from fedlens.data.types import Rows


@attacks.register("label_flip", summary="train on labels counted from the other end: y becomes C - 1 - y")
@dataclass(frozen=True)
class LabelFlip(Attack):
    """Every labelled training image of a malicious client gets the label C − 1 − y; training and reporting are
    unchanged."""

    def poison(self, rows: Rows, classes: int, seed: int) -> Poison | None:
        def flip(rows: Tensor, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            return images, torch.where(labels == UNLABELLED, labels, classes - 1 - labels)

        return flip
