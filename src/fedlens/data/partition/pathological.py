"""Each client knows a few classes only.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017, in the
form by classes of Li et al. (NIID-Bench, "#C = k"), ICDE 2022.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlens.data.base import Scheme, ToPartition, schemes
from fedlens.data.partition.flower import LABEL, check_clients, deal, shuffled
from fedlens.errors import DataError
from fedlens.limits import Classes


@schemes.register("pathological", "each client holds exactly classes_per_client classes")
@dataclass(frozen=True)
class Pathological(Scheme):
    """The first class goes round by client, so that none is left out when there are enough clients; the others
    are drawn. A class is shuffled, then cut evenly among the clients that hold it."""

    classes_per_client: Classes = 2

    def assign(self, rows: ToPartition) -> dict[str, NDArray[np.int64]]:
        from flwr_datasets.partitioner import PathologicalPartitioner

        check_clients("pathological", rows)
        classes = len(np.unique(rows.labels))
        if self.classes_per_client > classes:
            raise DataError(
                f"partition pathological: classes_per_client={self.classes_per_client}, but the number of classes "
                f"among the images to deal out is {classes}. Lower partition.classes_per_client."
            )
        try:
            return deal(
                lambda: PathologicalPartitioner(
                    rows.clients, LABEL, self.classes_per_client, "first-deterministic", shuffle=False, seed=rows.seed
                ),
                rows,
                shuffled(rows),
            )
        except ValueError as error:
            raise DataError(
                f"partition pathological: {rows.clients} clients with {self.classes_per_client} classes each need more "
                "images of some class than there are (at least one a client). Lower data.partition.clients or "
                "partition.classes_per_client."
            ) from error
