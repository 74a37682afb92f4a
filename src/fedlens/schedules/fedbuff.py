"""FedBuff: Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek, Huba 2022, https://arxiv.org/abs/2106.06639, Algorithm 1,
with the polynomial scaling of stale updates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from fedlens.core.limits import Clients
from fedlens.core.types import State
from fedlens.schedules.base import Asynchronous, Concurrency, MaxStaleness, mixed, schedules

PAPERS_K = 10


@schedules.register("fedbuff", summary="the server steps with every K updates that arrive, whatever they started from")
@dataclass(frozen=True)
class FedBuff(Asynchronous):
    """Δ = Σ w s(τ) Δ_i / Σ w over K updates, s(τ) = (1 + τ)^−a; then the strategy's step: `fedavg` for x ← x + Δ,
    `fedavgm` for the paper's server learning rate η_g and momentum. With equal weights w this is the paper's mean.

    The paper has no running statistics. Here they are interpolated instead of summed, because a sum of stale changes
    could make a variance negative.
    """

    buffer_size: Annotated[
        Clients | None, Field(description="K, updates that make a step; default: the paper's 10, or the concurrency")
    ] = None
    a: Annotated[float, Field(ge=0, description="a of s(τ); 0: stale updates count in full")] = 0.5
    concurrency: Concurrency = None
    max_staleness: MaxStaleness = None

    def buffer(self, concurrency: int) -> int:
        return self.buffer_size or min(PAPERS_K, concurrency)

    def scale(self, staleness: int) -> float:
        """s(τ)."""
        return math.pow(1 + staleness, -self.a)

    def update(self, update: State, base: State, current: State, staleness: int, trainable: frozenset[str]) -> State:
        if staleness == 0:
            return update
        scale = self.scale(staleness)
        trained = {name: value * scale for name, value in update.items() if name in trainable}
        return trained | mixed(update, base, current, scale, lambda name: name not in trainable)
