"""Half precision on the way: 16 bits a number in place of 32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from fedlens.compression.base import compressions
from fedlens.core.types import ClientResult, State
from fedlens.strategies.base import ClientUpdate
from fedlens.transforms.base import Encoded, EncodingContext, UpdateTransform

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_LARGEST = torch.finfo(torch.float16).max


@compressions.register("half", summary="16 bits a number, in both directions if asked")
@dataclass(frozen=True)
class Half(UpdateTransform):
    """Numbers of 32 bits are rounded to 16; what a strategy adds to the update, too, but for single numbers. The server
    adds up in 32 bits. Values beyond fp16's range become its largest."""

    dtype: Annotated[
        Literal["bf16", "fp16"],
        Field(description="bf16: 8 bits of mantissa, any size; fp16: 11 bits, up to 65,504"),
    ] = "bf16"
    down: Annotated[bool, Field(description="also what the server sends to the clients")] = False
    name: ClassVar[str] = "half"

    def encode(self, update: ClientUpdate, ctx: EncodingContext) -> Encoded:
        return Encoded(replace(update, payload=self._halved(update.payload), extra=self._halved(update.extra)))

    def decode(self, result: ClientResult, model: State) -> ClientResult:
        return replace(result, payload=self._whole(result.payload), extra=self._whole(result.extra))

    def encode_model(self, payload: State) -> State:
        return self._halved(payload) if self.down else payload

    def decode_model(self, payload: State) -> State:
        return self._whole(payload) if self.down else payload

    def _halved(self, state: State) -> State:
        kind = _TYPES[self.dtype]
        clamp: Callable[[torch.Tensor], torch.Tensor] = (
            (lambda value: value.clamp(-_LARGEST, _LARGEST)) if self.dtype == "fp16" else (lambda value: value)
        )
        return {
            name: clamp(value).to(kind) if value.dtype == torch.float32 and value.dim() else value
            for name, value in state.items()
        }

    def _whole(self, state: State) -> State:
        kind = _TYPES[self.dtype]
        return {name: value.float() if value.dtype == kind else value for name, value in state.items()}
