"""The largest part of an update, with memory of the rest: Stich, Cordonnier, Jaggi 2018,
https://arxiv.org/abs/1809.07599, Algorithm 1 (Mem-SGD with top-k), of whole updates in place of gradients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedlens.compression.base import checked, compressions
from fedlens.core.types import ClientResult, State
from fedlens.errors import ProtocolError
from fedlens.strategies.base import ClientUpdate
from fedlens.transforms.base import Encoded, EncodingContext, UpdateTransform

VALUES, PLACES = "topk.values", "topk.places"
"""(k,) float32, and (k,) int32: where they lie in all trainable tensors, one after another by name."""


@compressions.register("topk", summary="the largest part of an update; the client keeps the rest for the next time")
@dataclass(frozen=True)
class TopK(UpdateTransform):
    """Of g = Δ + m, the k = ⌈share · P⌉ numbers that are largest by absolute value travel; the rest is m the next time.
    Running statistics and what a strategy adds travel whole.
    """

    share: Annotated[float, Field(gt=0, le=1, description="of the update's numbers that travel")] = 0.01
    name: ClassVar[str] = "topk"
    dense: ClassVar[bool] = False

    def encode(self, update: ClientUpdate, ctx: EncodingContext) -> Encoded:
        names = sorted(update.payload.keys() & ctx.trainable)
        parts = {name: update.payload[name].contiguous() for name in names}
        vector = torch.cat([parts[name].flatten() + _memory(ctx.kept, name, parts[name]) for name in names])
        places = vector.abs().topk(math.ceil(self.share * len(vector)), sorted=False).indices.sort().values
        values = vector[places].clone()
        vector[places] = 0
        left = dict(zip(names, vector.split([part.numel() for part in parts.values()]), strict=True))
        whole = {name: value for name, value in update.payload.items() if name not in parts}
        payload = {**whole, VALUES: values, PLACES: places.to(torch.int32)}
        return Encoded(replace(update, payload=payload), {name: value.clone() for name, value in left.items()})

    def decode(self, result: ClientResult, model: State) -> ClientResult:
        payload = dict(result.payload)
        values, places = payload.pop(VALUES, None), payload.pop(PLACES, None)
        names = sorted(name for name in model if name not in payload)
        size = sum(model[name].numel() for name in names)
        shape = (math.ceil(self.share * size),)
        values, places = (
            checked(values, VALUES, torch.float32, shape),
            checked(places, PLACES, torch.int32, shape).long(),
        )
        if len(places) and not (int(places[0]) >= 0 and int(places[-1]) < size and bool((places.diff() > 0).all())):
            raise ProtocolError("a compressed update whose places are not in order, or outside the model")
        vector = torch.zeros(size).index_copy_(0, places, values)
        parts = vector.split([model[name].numel() for name in names])
        dense = {name: part.reshape(model[name].shape) for name, part in zip(names, parts, strict=True)}
        return replace(result, payload={**payload, **dense})


def _memory(kept: State, name: str, like: Tensor) -> Tensor:
    """m of one tensor, (numel,); zeros the first time."""
    return kept[name] if name in kept else torch.zeros(like.numel())
