"""The schedule interface: when the server steps, and how stale updates are scaled. Independent of the strategy.

A synchronous server waits for a cohort that starts from one model. An asynchronous one keeps a number of clients busy
and steps when its buffer is full. An update may then be stale: its staleness τ is the number of server steps since the
model that the client started from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from fedlens.core.limits import Clients, Times
from fedlens.core.registry import Registry
from fedlens.core.types import State
from fedlens.federation.rounds.base import RoundProtocol, RoundSetup
from fedlens.federation.rounds.buffered import BufferedRounds

MaxStaleness = Annotated[Times | None, Field(description="updates staler than this are discarded; default: none is")]
Concurrency = Annotated[
    Clients | None,
    Field(description="clients at work at any time; default: as many as a synchronous round takes"),
]


@dataclass(frozen=True)
class Schedule(ABC):
    """One schedule. The fields of the dataclass are its configuration keys under `schedule`."""

    @abstractmethod
    def protocol(self, setup: RoundSetup) -> RoundProtocol:
        """The protocol that collects results for each round of a run."""


class Asynchronous(Schedule):
    """A server that steps after a number of updates while other clients continue to train."""

    concurrency: int | None
    max_staleness: int | None

    def protocol(self, setup: RoundSetup) -> RoundProtocol:
        return BufferedRounds(setup, self)

    @abstractmethod
    def buffer(self, concurrency: int) -> int:
        """K, the number of updates per step when `concurrency` clients are training."""

    @abstractmethod
    def update(self, update: State, base: State, current: State, staleness: int, trainable: frozenset[str]) -> State:
        """An update as scaled for its staleness.

        update   after − before of a client that started from the model `base`, `staleness` steps ago
        current  the current shared model
        """


def mixed(update: State, base: State, current: State, share: float, names: Callable[[str], bool]) -> dict[str, Tensor]:
    """share · (client's tensor − current tensor) for the `names` of an update. Adding it moves the server's tensors
    towards the client's: x ← (1 − share) x + share (base + update)."""
    return {name: (base[name] + value - current[name]) * share for name, value in update.items() if names(name)}


schedules: Registry[Schedule] = Registry("schedule", "fedlens.schedules")
