"""Every client gets the same class distribution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlens.data.base import Scheme, ToPartition, schemes
from fedlens.data.partition.cutting import check_clients, named


@schemes.register("iid", "equal shares of a shuffled whole: the easy case, and the baseline")
@dataclass(frozen=True)
class Iid(Scheme):
    """Sizes differ by at most one."""

    def assign(self, rows: ToPartition) -> dict[str, NDArray[np.int64]]:
        check_clients("iid", rows)
        order = np.random.default_rng(rows.seed).permutation(len(rows.labels))
        return named(np.array_split(order, rows.clients))
