"""Which clients take part in a round."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from fedlens.core.seeds import derive
from fedlens.core.types import ClientInfo
from fedlens.errors import NotEnoughClients


class Sampler(Protocol):
    """One way to draw cohorts.

    seed             the run's, for what else is drawn
    min_fit_clients  clients that have to be there before a round can begin
    over_selection   further clients to ask, as a share, so that the round need not wait for late ones
    """

    @property
    def seed(self) -> int: ...

    @property
    def min_fit_clients(self) -> int: ...

    @property
    def over_selection(self) -> float: ...

    def size(self, available: int) -> int:
        """How many results a round takes at most, of `available` clients."""
        ...

    def expected(self, available: int) -> float:
        """How many results a round takes on average, of `available` clients."""
        ...

    def fewest(self, available: int) -> int:
        """How many of `available` clients a round asks at least, if no partition is missing."""
        ...

    def most(self, available: int) -> int:
        """How many of `available` clients a round asks at most, if no partition is missing."""
        ...

    def choose(self, round_number: int, clients: Sequence[ClientInfo], *, spare: bool = True) -> list[ClientInfo]:
        """The clients that are asked in a round, in the clients' own order. `spare`: including those that
        over-selection adds."""
        ...


@dataclass(frozen=True)
class ClientSampler:
    """Flower's rule: max(⌊available × fraction_fit⌋, min_fit_clients) clients, drawn without replacement.

    over_selection  further clients to ask, as a share of that number, so that the round need not wait for late ones
    """

    fraction_fit: float
    min_fit_clients: int
    seed: int
    over_selection: float = 0.0

    def size(self, available: int) -> int:
        """How many results a round takes, of `available` clients.

        Raises:
            NotEnoughClients: there are fewer than `min_fit_clients`.
        """
        if available < self.min_fit_clients:
            raise NotEnoughClients(
                f"federated.min_fit_clients={self.min_fit_clients}, but the data has {available} client(s): "
                f"use federated.min_fit_clients={available} or more clients (data.partition.clients)"
            )
        return self._wanted(available)

    def expected(self, available: int) -> float:
        return self.size(available)

    def fewest(self, available: int) -> int:
        return self.size(available)

    def most(self, available: int) -> int:
        size = self._wanted(available)
        return min(size + math.ceil(size * self.over_selection - 1e-9), available)

    def choose(self, round_number: int, clients: Sequence[ClientInfo], *, spare: bool = True) -> list[ClientInfo]:
        """The clients that are asked in a round, in the clients' own order; depends on seed and round only. `spare`:
        including those that over-selection adds.

        Raises:
            NotEnoughClients: there are fewer than `min_fit_clients`.
        """
        size = self.size(len(clients))
        if spare:
            size = self.most(len(clients))
        generator = np.random.default_rng(derive(self.seed, "cohort", round_number))
        return [clients[index] for index in sorted(generator.choice(len(clients), size, replace=False))]

    def _wanted(self, available: int) -> int:
        """0.3 × 10 is 2.9999999999999996 in binary."""
        return max(int(available * self.fraction_fit + 1e-9), self.min_fit_clients)


@dataclass(frozen=True)
class PoissonSampler:
    """Each client takes part with the probability `fraction`, by a coin of its own: the sampling whose amplification of
    differential privacy is proven for noise on a sum (Mironov, Talwar, Zhang 2019, https://arxiv.org/abs/1908.10530).
    A cohort may be empty.

    The coins are the operating system's: whoever could foretell them would know who took part, and nothing would be
    amplified. With `insecure_seed` they are drawn from that.
    """

    fraction: float
    seed: int
    insecure_seed: int | None = None
    min_fit_clients: ClassVar[int] = 1
    over_selection: ClassVar[float] = 0.0

    def size(self, available: int) -> int:
        return available

    def expected(self, available: int) -> float:
        return self.fraction * available

    def fewest(self, available: int) -> int:
        return 0

    def most(self, available: int) -> int:
        return available

    def choose(self, round_number: int, clients: Sequence[ClientInfo], *, spare: bool = True) -> list[ClientInfo]:
        known, many = self.insecure_seed, len(clients)
        coins = system_coins(many) if known is None else seeded_coins(derive(known, "cohort", round_number), many)
        return [clients[index] for index in np.flatnonzero(coins < self.fraction).tolist()]


def system_coins(many: int) -> NDArray[np.float64]:
    """Numbers from 0 to 1 as `random.SystemRandom` makes them, of one call to the system for all of them."""
    return np.ldexp((np.frombuffer(os.urandom(8 * many), np.uint64) >> np.uint64(11)).astype(np.float64), -53)


def seeded_coins(seed: int, many: int) -> NDArray[np.float64]:
    """Numbers from 0 to 1 that everybody who knows `seed` can compute."""
    coins = random.Random(seed)
    return np.array([coins.random() for _ in range(many)])


@dataclass(frozen=True)
class CyclicSampler:
    """The clients' partitions are dealt out to `groups` groups, and round t asks group t mod `groups`: a client takes
    part once in so many rounds, and never twice within them. This is (b, k)-participation with b = `groups`, as in
    Choquette-Choo, Ganesh, McKenna, McMahan, Rush, Thakurta, Xu 2023, https://arxiv.org/abs/2306.08153."""

    groups: int
    seed: int
    min_fit_clients: ClassVar[int] = 1
    over_selection: ClassVar[float] = 0.0

    def size(self, available: int) -> int:
        return available

    def expected(self, available: int) -> float:
        return available / self.groups

    def fewest(self, available: int) -> int:
        return available // self.groups

    def most(self, available: int) -> int:
        return math.ceil(available / self.groups)

    def choose(self, round_number: int, clients: Sequence[ClientInfo], *, spare: bool = True) -> list[ClientInfo]:
        turn = round_number % self.groups
        return [client for client in clients if client.partition % self.groups == turn]
