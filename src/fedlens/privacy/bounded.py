"""The part of client-level privacy that every update passes: a bound on its norm, and one weight for all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

from fedlens.aggregation.receivers import Receiver
from fedlens.core.types import ClientResult, State
from fedlens.privacy.adaptive_clip import BELOW, CLIP, bit, clip_of
from fedlens.privacy.clipping import clipped, exact_norm
from fedlens.privacy.protected import ProtectedUpdate
from fedlens.privacy.release import KEPT
from fedlens.strategies.base import ClientUpdate
from fedlens.transforms.base import Encoded, EncodingContext, ReceivingContext


@dataclass(frozen=True)
class BoundedUpdate(ProtectedUpdate):
    """A client clips its update to the L2 norm `clip` and gives it the weight 1. Where it is added up it is clipped
    again: the claim does not rest on what a client says, or on how an encoding rounds.

    clip      of every round; adaptive: of the first
    adaptive  the server tells the clip of each later round, and clients say whether their update was within it
    """

    clip: float
    adaptive: bool = False
    name: ClassVar[str] = KEPT
    any_device: ClassVar[bool] = True

    def encode(self, update: ClientUpdate, ctx: EncodingContext) -> Encoded:
        """As `ProtectedUpdate.encode`."""
        encoded = super().encode(update, ctx)
        if not self.adaptive:
            return encoded
        within = exact_norm(update.payload.values()) <= clip_of(ctx.told, self.clip)
        return replace(encoded, update=replace(encoded.update, extra={BELOW: bit(within)}))

    def protected(self, payload: State, ctx: EncodingContext) -> State:
        return clipped(payload, clip_of(ctx.told, self.clip))

    def told(self, kept: State) -> State:
        return {CLIP: kept[CLIP]} if CLIP in kept else {}

    def receiver(self, ctx: ReceivingContext) -> Receiver:
        return Bound(clip_of(ctx.told, self.clip))


class Bound(Receiver):
    """Clips every decoded update, and what says whether it was within the clip."""

    def __init__(self, clip: float) -> None:
        self._clip = clip

    def add(self, result: ClientResult) -> Iterable[ClientResult]:
        report = replace(result.report, weight=1.0)
        extra = {name: value.clamp(-0.5, 0.5) for name, value in result.extra.items()}
        return (replace(result, report=report, payload=clipped(result.payload, self._clip), extra=extra),)
