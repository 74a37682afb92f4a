"""The clock interface: how long simulated clients take, when they are available, and which tasks drop out.

Clocks have no state. The time of a task is drawn from its start number among all starts of the run, and availability
follows from the time, so a run that is resumed from a checkpoint behaves the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedlens.core.registry import Registry
from fedlens.core.seeds import derive

Scale = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class LatencyModel(ABC):
    """One latency model. The fields of the dataclass are its configuration keys under `clock`.

    virtual  False: synchronous rounds take no virtual time
    """

    virtual: ClassVar[bool] = True

    @abstractmethod
    def seconds(self, client: str, seed: int, number: int) -> float:
        """How long `client` takes, from request to result, for the task with start number `number` in the run."""

    def lost(self, client: str, seed: int, number: int) -> bool:
        """Whether that task drops out: no result arrives."""
        return False

    def next_on(self, client: str, seed: int, now: float) -> float:
        """The earliest time from which the client is available: `now` if it already is. A round that needs several
        clients at once searches until each unavailable client has become available once."""
        return now

    def incompatibility(self, clients: Sequence[str], /) -> str | None:
        """Why the clock cannot work with these clients: a line that starts with its key at fault ("path: …"); None if
        it can."""
        return None


@dataclass(frozen=True)
class IntermittentClients(LatencyModel):
    """Clients with limited availability.

    A client is available in the first part of each of its cycles, whose start differs by client. A client that becomes
    unavailable while it works still finishes; it only gets no new task. A dropout is noticed at the time when the
    result was due.
    """

    dropout: Annotated[float, Field(ge=0, lt=1, description="probability that a task's result never comes")] = 0.0
    available: Annotated[float, Field(gt=0, le=1, description="share of the time that a client is available")] = 1.0
    cycle: Annotated[
        float, Field(gt=0, description="seconds from one start of a client's availability to the next")
    ] = 100.0

    def lost(self, client: str, seed: int, number: int) -> bool:
        return self.dropout > 0 and draws(seed, "dropout", number).random() < self.dropout

    def next_on(self, client: str, seed: int, now: float) -> float:
        if self.available == 1:
            return now
        phase = constant(seed, "phase", client) * self.cycle
        into = (now - phase) % self.cycle
        wait = self.cycle - into
        rounding = 1e-9 * max(now, self.cycle)
        return now if into < self.available * self.cycle or wait < rounding else now + wait


def draws(seed: int, *place: str | int) -> np.random.Generator:
    return np.random.default_rng(derive(seed, "clock", *place))


@cache
def constant(seed: int, purpose: str, client: str) -> float:
    """A number in [0, 1) that is constant for the client."""
    return draws(seed, purpose, client).random()


clocks: Registry[LatencyModel] = Registry("clock", "fedlens.clocks")
