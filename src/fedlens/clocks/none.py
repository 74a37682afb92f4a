"""No virtual time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedlens.clocks.base import LatencyModel, clocks


@clocks.register("none", summary="no virtual time; a simulated asynchronous schedule takes a second for every task")
@dataclass(frozen=True)
class NoClock(LatencyModel):
    """All clients are equally fast."""

    virtual: ClassVar[bool] = False

    def seconds(self, client: str, seed: int, number: int) -> float:
        return 1.0
