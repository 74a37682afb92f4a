"""Gaussian noise: Blanchard, El Mhamdi, Guerraoui, Stainer 2017, https://arxiv.org/abs/1703.02757, its experiments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedlens.attacks.base import Attack, AttackContext, attacks
from fedlens.core.types import State


@attacks.register("gaussian", summary="send noise in place of an update")
@dataclass(frozen=True)
class Gaussian(Attack):
    """A malicious client sends an update with N(0, σ²) in every coordinate."""

    crafts: ClassVar[bool] = True

    std: Annotated[
        float, Field(gt=0, le=1e6, description="σ; the paper's gradients, before their learning rate, have 200")
    ] = 1.0

    def craft(self, honest: Sequence[State], ctx: AttackContext) -> Sequence[State]:
        def noise(like: Tensor) -> Tensor:
            drawn = torch.randn(like.shape, generator=ctx.generator) * self.std
            return drawn.to(like)

        return [{name: noise(update[name]) for name in sorted(update)} for update in honest]
