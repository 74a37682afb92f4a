"""The clock seam: how long simulated clients take, when they can be asked, and which of them are lost.

Nothing here keeps state. What a task takes is drawn for the place of its start among all starts of the run, and
whether a client is on follows from the time; so a run that goes on from a checkpoint meets the same clients.
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
    """One model of speed. The dataclass' fields are its configuration keys under `clock`.

    virtual  False: no virtual time passes in synchronous rounds
    """

    virtual: ClassVar[bool] = True

    @abstractmethod
    def seconds(self, client: str, seed: int, number: int) -> float:
        """How long `client` takes for the task that is the run's start `number`, from being asked to its answer."""

    def lost(self, client: str, seed: int, number: int) -> bool:
        """Whether nothing comes back from that task."""
        return False

    def next_on(self, client: str, seed: int, now: float) -> float:
        """The moment from which the client can be asked: `now` when it is on. A round that needs several at once looks
        for them until each of those who are off has come on once."""
        return now

    def incompatibility(self, clients: Sequence[str]) -> str | None:
        """Why it cannot work with these clients; None: it can."""
        return None


@dataclass(frozen=True)
class IntermittentClients(LatencyModel):
    """Clients that come and go.

    A client is on for the first part of each of its cycles, which begin at a moment of its own. One that goes off while
    it works finishes all the same: it is only not asked. What drops out is noticed when its answer would have come.
    """

    dropout: Annotated[float, Field(ge=0, lt=1, description="probability that a task's answer never comes")] = 0.0
    available: Annotated[float, Field(gt=0, le=1, description="share of the time that a client is on")] = 1.0
    cycle: Annotated[float, Field(gt=0, description="seconds from one time that a client comes on to the next")] = 100.0

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
    """A number in [0, 1) that is the client's for good."""
    return draws(seed, purpose, client).random()


clocks: Registry[LatencyModel] = Registry("clock", "fedlens.clocks")
