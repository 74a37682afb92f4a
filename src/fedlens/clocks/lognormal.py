"""Log-normal speeds: some clients are always many times slower than others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Annotated

from pydantic import Field

from fedlens.clocks.base import IntermittentClients, Scale, clocks, constant, draws

Spread = Annotated[float, Field(ge=0, le=20)]
"""At 20, one client in six is already half a billion times slower than the median client."""


@clocks.register("lognormal", summary="clients of unequal, constant speed; some are many times slower")
@dataclass(frozen=True)
class LogNormal(IntermittentClients):
    """median · exp(sigma · z_client + jitter · z_task) seconds, both z standard normal."""

    median: Annotated[Scale, Field(description="seconds that the client in the middle takes")] = 1.0
    sigma: Annotated[Spread, Field(description="spread between clients: 1 makes one in six 2.7 times slower")] = 1.0
    jitter: Annotated[Spread, Field(description="spread between the tasks of one client")] = 0.0

    def seconds(self, client: str, seed: int, number: int) -> float:
        own = NormalDist().inv_cdf(constant(seed, "speed", client))
        task = float(draws(seed, "seconds", number).standard_normal())
        return self.median * math.exp(self.sigma * own + self.jitter * task)
