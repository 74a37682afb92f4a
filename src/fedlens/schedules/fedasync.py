"""FedAsync: Xie, Koyejo, Gupta 2019, https://arxiv.org/abs/1903.03934, Algorithm 1 and section 5.2.

The clients' proximal term, ρ/2 ‖x − x_t‖² in the paper, is that of FedProx: `strategy.name=fedprox`, `strategy.mu` for
ρ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from fedlens.core.limits import TimesOrNever
from fedlens.core.types import State
from fedlens.schedules.base import Asynchronous, Concurrency, MaxStaleness, mixed, schedules


@schedules.register("fedasync", summary="every update is mixed into the model as it arrives, less when it is stale")
@dataclass(frozen=True)
class FedAsync(Asynchronous):
    """x ← (1 − α_t) x + α_t x_new with α_t = α · s(τ): s(τ) = 1 (constant), (τ + 1)^−a (polynomial), or 1 up to τ = b
    and 1 / (a (τ − b) + 1) beyond (hinge). The strategy's step uses α_t (x_new − x). τ counts the server steps since
    the client received its model, so a fresh update has τ = 0, as in FedBuff; in Algorithm 1 it is one larger.
    """

    mixing: Annotated[float, Field(gt=0, le=1, description="α, share of a fresh update in the new model")] = 0.6
    staleness: Annotated[
        Literal["constant", "hinge", "polynomial"], Field(description="s(τ), how the share falls with staleness")
    ] = "polynomial"
    a: Annotated[
        float | None, Field(gt=0, description="a of s(τ); default: the paper's, 0.5 (polynomial) or 10 (hinge)")
    ] = None
    b: Annotated[TimesOrNever, Field(description="hinge: staleness without a penalty")] = 4
    concurrency: Concurrency = None
    max_staleness: MaxStaleness = None

    def buffer(self, concurrency: int) -> int:
        return 1

    def share(self, staleness: int) -> float:
        """α_t for an update of this staleness."""
        if self.staleness == "constant":
            return self.mixing
        if self.staleness == "polynomial":
            return self.mixing * math.pow(staleness + 1, -(self.a or 0.5))
        return self.mixing / ((self.a or 10) * max(staleness - self.b, 0) + 1)

    def update(self, update: State, base: State, current: State, staleness: int, trainable: frozenset[str]) -> State:
        return mixed(update, base, current, self.share(staleness), lambda _name: True)
