"""The part of client-level privacy that every update passes: a bound on its norm, and one weight for all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

from fedlens.aggregation.receivers import Receiver
from fedlens.core.types import ClientResult, State
from fedlens.privacy.clipping import clipped
from fedlens.privacy.protected import ProtectedUpdate
from fedlens.transforms.base import EncodingContext, ReceivingContext


@dataclass(frozen=True)
class BoundedUpdate(ProtectedUpdate):
    """A client clips its update to the L2 norm `clip` and gives it the weight 1. Where it is added up it is clipped
    again: the claim does not rest on what a client says, or on how an encoding rounds."""

    clip: float
    name: ClassVar[str] = "bounded"

    def protected(self, payload: State, ctx: EncodingContext) -> State:
        return clipped(payload, self.clip)

    def receiver(self, ctx: ReceivingContext) -> Receiver:
        return Bound(self.clip)


class Bound(Receiver):
    """Clips every decoded update."""

    def __init__(self, clip: float) -> None:
        self._clip = clip

    def add(self, result: ClientResult) -> Iterable[ClientResult]:
        report = replace(result.report, weight=1.0)
        return (replace(result, report=report, payload=clipped(result.payload, self._clip)),)
