"""Each client holds only a few classes.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017, in the
variant by classes of Li et al. (NIID-Bench, "#C = k"), ICDE 2022.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlens.core.limits import Classes
from fedlens.data.base import Scheme, ToPartition, schemes
from fedlens.data.partition.cutting import by_class, check_clients, named
from fedlens.errors import DataError


@schemes.register("pathological", "each client holds exactly classes_per_client classes")
@dataclass(frozen=True)
class Pathological(Scheme):
    """The first class of each client is assigned in rotation, so that none is left out if there are enough clients; the
    others are drawn at random. A class is shuffled, then split evenly among the clients that hold it."""

    classes_per_client: Classes = 2

    def assign(self, rows: ToPartition) -> dict[str, NDArray[np.int64]]:
        check_clients("pathological", rows)
        positions = by_class(rows)
        if self.classes_per_client > len(positions):
            raise DataError(
                f"partition pathological: classes_per_client={self.classes_per_client}, but the number of classes "
                f"among the images to deal out is {len(positions)}. Lower partition.classes_per_client."
            )
        held = self._classes_of_clients(list(positions), rows)
        parts: list[list[NDArray[np.int64]]] = [[] for _ in held]
        for label, own in positions.items():
            holders = [client for client, labels in enumerate(held) if label in labels]
            if len(holders) > len(own):
                raise DataError(
                    f"partition pathological: {rows.clients} clients with {self.classes_per_client} classes each need "
                    "more images of some class than there are (at least one a client). Lower data.partition.clients "
                    "or partition.classes_per_client."
                )
            for client, piece in zip(holders, np.array_split(own, max(len(holders), 1)), strict=False):
                parts[client].append(piece)
        return named([np.concatenate(part) for part in parts])

    def _classes_of_clients(self, labels: list[int], rows: ToPartition) -> list[list[int]]:
        rng = np.random.default_rng(rows.seed)
        held = []
        for client in range(rows.clients):
            own = [labels[client % len(labels)]]
            while len(own) < self.classes_per_client:
                label = int(rng.choice(labels, size=1)[0])
                if label not in own:
                    own.append(label)
            held.append(own)
        return held
