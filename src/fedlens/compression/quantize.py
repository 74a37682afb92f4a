"""Stochastic uniform quantisation: Alistarh, Grubic, Li, Tomioka, Vojnovic 2017 (QSGD),
https://arxiv.org/abs/1610.02132, section 3.1, with the tensor's largest value in place of its 2-norm as in their
section 4; of whole updates as in FedPAQ: Reisizadeh, Mokhtari, Hassani, Jadbabaie, Pedarsani 2020,
https://arxiv.org/abs/1909.13014.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedlens.compression.base import checked, compressions
from fedlens.core.types import ClientResult, State
from fedlens.errors import ProtocolError
from fedlens.strategies.base import ClientUpdate
from fedlens.transforms.base import Encoded, EncodingContext, UpdateTransform

SCALES = "quantize.scales"
"""(tensors,) float32: the largest absolute value of each quantised tensor, in the order of their names."""


@compressions.register("quantize", summary="8 or 4 bits a number, rounded at random so that the mean is right")
@dataclass(frozen=True)
class Quantize(UpdateTransform):
    """With s = 2^(bits − 1) − 1 levels and the tensor's largest absolute value m, x becomes m · sign(x) · ξ / s. ξ is
    ⌊s |x| / m⌋ or the number above it, drawn so that the expected value is x: equation (1) of QSGD. Running statistics
    and what a strategy adds travel whole.
    """

    bits: Annotated[Literal[8, 4], Field(description="of each number")] = 8
    name: ClassVar[str] = "quantize"

    @property
    def levels(self) -> int:
        """s."""
        return 127 if self.bits == 8 else 7

    def encode(self, update: ClientUpdate, ctx: EncodingContext) -> Encoded:
        generator = torch.Generator().manual_seed(ctx.seed)
        names = sorted(update.payload.keys() & ctx.trainable)
        scales = torch.stack([update.payload[name].abs().max() for name in names]) if names else torch.zeros(0)
        coded = {
            name: self._packed(self._drawn(update.payload[name], scale, generator))
            for name, scale in zip(names, scales, strict=True)
        }
        whole = {name: value for name, value in update.payload.items() if name not in coded}
        return Encoded(replace(update, payload={**whole, **coded, SCALES: scales.float()}))

    def decode(self, result: ClientResult, model: State) -> ClientResult:
        payload = dict(result.payload)
        names = sorted(name for name in model if name in payload and payload[name].dtype == self._dtype)
        scales = checked(payload.pop(SCALES, None), SCALES, torch.float32, (len(names),))
        for name, scale in zip(names, scales, strict=True):
            payload[name] = self._unpacked(payload[name], model[name]) * (scale / self.levels)
        return replace(result, payload=payload)

    @property
    def _dtype(self) -> torch.dtype:
        return torch.int8 if self.bits == 8 else torch.uint8

    def _drawn(self, value: Tensor, scale: Tensor, generator: torch.Generator) -> Tensor:
        """sign(x) · ξ, int8 of the tensor's shape."""
        if not scale:
            return torch.zeros(value.shape, dtype=torch.int8)
        level = value.contiguous().abs() * (self.levels / scale)
        drawn = (level + torch.rand(value.shape, generator=generator)).floor().clamp_(max=self.levels)
        return (drawn * value.sign()).to(torch.int8)

    def _packed(self, level: Tensor) -> Tensor:
        """As it travels: with 4 bits, two numbers in a byte."""
        if self.bits == 8:
            return level
        shifted = (level.flatten() + self.levels).to(torch.uint8)
        if len(shifted) % 2:
            shifted = torch.cat([shifted, shifted.new_zeros(1)])
        return shifted[0::2] * 16 + shifted[1::2]

    def _unpacked(self, coded: Tensor, like: Tensor) -> Tensor:
        if self.bits == 8:
            return checked(coded, "levels", torch.int8, tuple(like.shape)).float()
        coded = checked(coded, "levels", torch.uint8, ((like.numel() + 1) // 2,))
        level = torch.stack([coded // 16, coded % 16], dim=1).flatten()[: like.numel()]
        if bool((level > 2 * self.levels).any()):
            raise ProtocolError(f"a compressed update with a level above {self.levels}")
        return (level.float() - self.levels).reshape(like.shape)
