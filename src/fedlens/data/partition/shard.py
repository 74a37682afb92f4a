"""Rows sorted by label, split into shards, a few shards per client.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017, section 3:
MNIST in 200 shards of 300, two per client for 100 clients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlens.core.limits import Number
from fedlens.data.base import Scheme, ToPartition, schemes
from fedlens.data.partition.cutting import by_class, named
from fedlens.errors import DataError


@schemes.register("shard", "label-sorted shards, shards_per_client each: the non-IID split of the FedAvg paper")
@dataclass(frozen=True)
class Shard(Scheme):
    """Each class is shuffled before the sorted rows are split. All shards have equal size; the remainder is not
    used."""

    shards_per_client: Number = 2

    def assign(self, rows: ToPartition) -> dict[str, NDArray[np.int64]]:
        shards = rows.clients * self.shards_per_client
        if shards > len(rows.labels):
            raise DataError(
                f"partition shard: {rows.clients} clients × {self.shards_per_client} shards need at least {shards} "
                f"images, but there are {len(rows.labels)}. Lower data.partition.clients or "
                "data.partition.shards_per_client."
            )
        order = np.concatenate(list(by_class(rows).values()))
        size = len(order) // shards
        pieces = order[: len(order) // size * size].reshape(-1, size)
        drawn = np.random.default_rng(rows.seed).permutation(len(pieces))[:shards]
        return named(pieces[own].ravel() for own in drawn.reshape(rows.clients, -1))
