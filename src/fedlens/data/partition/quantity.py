"""Clients of different sizes, the same mixture in each.

Li et al., "Federated Learning on Non-IID Data Silos" (NIID-Bench), ICDE 2022, section 4 ("quantity skew", by a
Dirichlet draw); the fixed progressions are those of flwr-datasets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedlens.data.base import Scheme, ToPartition, schemes
from fedlens.data.partition.flower import check_clients, deal
from fedlens.errors import DataError
from fedlens.limits import Number

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

DRAWS = 100


@schemes.register("quantity", "quantity skew: some clients hold many images and some few, all the same mixture")
@dataclass(frozen=True)
class Quantity(Scheme):
    """skew: client k's size grows like k, k² or eᵏ, or is a Dirichlet(alpha) draw."""

    skew: Literal["linear", "square", "exponential", "dirichlet"] = "linear"
    alpha: Annotated[float, Field(gt=0)] = 0.5
    min_size: Number = 1

    def assign(self, rows: ToPartition) -> dict[str, NDArray[np.int64]]:
        check_clients("quantity", rows, self.min_size)
        rng = np.random.default_rng(rows.seed)
        order = rng.permutation(len(rows.labels))
        try:
            parts = deal(lambda: self._partitioner(rows, rng), rows, order)
        except (ValueError, FloatingPointError) as error:
            raise DataError(self._too_small(rows)) from error
        if min(map(len, parts.values())) < self.min_size:
            raise DataError(self._too_small(rows))
        return parts

    def _partitioner(self, rows: ToPartition, rng: np.random.Generator) -> Partitioner:
        from flwr_datasets import partitioner as flwr

        if self.skew == "dirichlet":
            return flwr.SizePartitioner(self._sizes(rows, rng))
        kinds = {
            "linear": flwr.LinearPartitioner,
            "square": flwr.SquarePartitioner,
            "exponential": flwr.ExponentialPartitioner,
        }
        return kinds[self.skew](rows.clients)

    def _sizes(self, rows: ToPartition, rng: np.random.Generator) -> list[int]:
        for _ in range(DRAWS):
            shares = rng.dirichlet(np.full(rows.clients, self.alpha))
            ends = np.floor(np.cumsum(shares) * len(rows.labels) + 1e-6).astype(int)
            sizes = np.diff(ends, prepend=0)
            if sizes.min() >= self.min_size:
                return [int(size) for size in sizes]
        raise ValueError(f"no draw of {DRAWS} fits")

    def _too_small(self, rows: ToPartition) -> str:
        alpha = f", alpha={self.alpha}" if self.skew == "dirichlet" else ""
        return (
            f"partition quantity: skew={self.skew}{alpha} over {rows.clients} clients leaves the smallest fewer than "
            f"{self.min_size} of the {len(rows.labels)} images. Lower data.partition.clients or data.partition.min_size"
            + (", or raise data.partition.alpha." if alpha else ", or choose a milder data.partition.skew (linear).")
        )
