"""Which clients take part in a round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedlens.core.seeds import derive
from fedlens.core.types import ClientInfo
from fedlens.errors import NotEnoughClients


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
        # 0.3 × 10 is 2.9999999999999996 in binary
        return max(int(available * self.fraction_fit + 1e-9), self.min_fit_clients)

    def choose(self, round_number: int, clients: Sequence[ClientInfo], *, spare: bool = True) -> list[ClientInfo]:
        """The clients that are asked in a round, in the clients' own order; depends on seed and round only. `spare`:
        including those that over-selection adds.

        Raises:
            NotEnoughClients: there are fewer than `min_fit_clients`.
        """
        size = self.size(len(clients))
        if spare:
            size = min(size + math.ceil(size * self.over_selection - 1e-9), len(clients))
        generator = np.random.default_rng(derive(self.seed, "cohort", round_number))
        return [clients[index] for index in sorted(generator.choice(len(clients), size, replace=False))]
