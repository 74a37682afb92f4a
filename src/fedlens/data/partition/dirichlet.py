"""Label skew drawn from a Dirichlet distribution.

Yurochkin et al., "Bayesian Nonparametric Federated Learning of Neural Networks", ICML 2019; Li et al.,
"Federated Learning on Non-IID Data Silos" (NIID-Bench), ICDE 2022, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedlens.data.base import Scheme, ToPartition, schemes
from fedlens.data.partition.flower import LABEL, check_clients, deal, shuffled
from fedlens.errors import DataError
from fedlens.limits import NumberOrNone

RESTARTS = 10
"""flwr-datasets gives up after 11 draws. With alpha 0.1 and 100 clients that fails for one seed in four."""


@schemes.register("dirichlet", "label skew: a Dirichlet draw shares out each class (small alpha: few classes each)")
@dataclass(frozen=True)
class Dirichlet(Scheme):
    """Each class is shuffled, then cut into the clients' shares. alpha: 0.1 is strong skew, 100 nearly iid.
    `balanced`: a client that holds its even share gets no further class (the cap of NIID-Bench)."""

    alpha: Annotated[float, Field(gt=0)] = 0.5
    min_size: NumberOrNone = 10
    balanced: bool = False

    def assign(self, rows: ToPartition) -> dict[str, NDArray[np.int64]]:
        check_clients("dirichlet", rows, max(self.min_size, 1))
        for seed in [rows.seed, *np.random.SeedSequence(rows.seed).generate_state(RESTARTS - 1).tolist()]:
            try:
                return self._draw(rows, seed)
            except (ValueError, FloatingPointError) as error:
                cause = error
        raise DataError(
            f"partition dirichlet: with alpha={self.alpha} over {rows.clients} clients, no draw of {11 * RESTARTS} "
            f"gave every client {self.min_size} of the {len(rows.labels)} images. Raise data.partition.alpha, lower "
            "data.partition.clients or data.partition.min_size, or set data.partition.balanced=true."
        ) from cause

    def _draw(self, rows: ToPartition, seed: int) -> dict[str, NDArray[np.int64]]:
        from flwr_datasets.partitioner import DirichletPartitioner

        return deal(
            lambda: DirichletPartitioner(
                rows.clients, LABEL, self.alpha, self.min_size, self.balanced, shuffle=False, seed=seed
            ),
            rows,
            shuffled(rows),
        )
