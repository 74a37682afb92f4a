"""Half-normal delays, as in FedBuff: Nguyen et al. 2022, https://arxiv.org/abs/2106.06639, whose authors observed them
in production; drawn anew for every task, as in their simulator (https://github.com/facebookresearch/FLSim)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from fedlens.clocks.base import IntermittentClients, Scale, clocks, draws


@clocks.register("half_normal", summary="minimum + |N(0, scale²)| seconds a task: FedBuff's model of phones")
@dataclass(frozen=True)
class HalfNormal(IntermittentClients):
    """Delays are independent between tasks, so no client is always slow."""

    scale: Annotated[Scale, Field(description="σ of the normal distribution, seconds")] = 1.0
    minimum: Annotated[float, Field(ge=0, description="seconds that every task takes at least")] = 0.0

    def seconds(self, client: str, seed: int, number: int) -> float:
        return self.minimum + self.scale * abs(float(draws(seed, "seconds", number).standard_normal()))
