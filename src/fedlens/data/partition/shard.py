"""Rows sorted by label, cut into shards, a few shards a client.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017, section 3:
MNIST in 200 shards of 300, two for each of 100 clients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlens.data.base import Scheme, ToPartition, schemes
from fedlens.data.partition.flower import LABEL, deal, shuffled
from fedlens.errors import DataError
from fedlens.limits import Number


@schemes.register("shard", "label-sorted shards, shards_per_client each: the non-IID split of the FedAvg paper")
@dataclass(frozen=True)
class Shard(Scheme):
    """Each class is shuffled before the sorted rows are cut. All shards are equal; what is left when the rows do not
    divide evenly belongs to nobody."""

    shards_per_client: Number = 2

    def assign(self, rows: ToPartition) -> dict[str, NDArray[np.int64]]:
        from flwr_datasets.partitioner import ShardPartitioner

        shards = rows.clients * self.shards_per_client
        if shards > len(rows.labels):
            raise DataError(
                f"partition shard: {rows.clients} clients × {self.shards_per_client} shards need at least {shards} "
                f"images, but there are {len(rows.labels)}. Lower data.partition.clients or "
                "data.partition.shards_per_client."
            )
        size = len(rows.labels) // shards
        return deal(
            lambda: ShardPartitioner(rows.clients, LABEL, self.shards_per_client, size, shuffle=False, seed=rows.seed),
            rows,
            shuffled(rows),
        )
