"""Clients of different sizes with the same class distribution.

Li et al., "Federated Learning on Non-IID Data Silos" (NIID-Bench), ICDE 2022, section 4 ("quantity skew", by a
Dirichlet draw); the fixed progressions are those of flwr-datasets (https://flower.ai/docs/datasets/).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedlens.core.limits import Number
from fedlens.data.base import Scheme, ToPartition, schemes
from fedlens.data.partition.cutting import check_clients, named
from fedlens.errors import DataError

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
        sizes = self._drawn(rows, rng) if self.skew == "dirichlet" else self._grown(rows)
        if sizes is None or sizes.min() < self.min_size:
            raise DataError(self._too_small(rows))
        return named(np.split(order, np.cumsum(sizes)[:-1]))

    def _grown(self, rows: ToPartition) -> NDArray[np.int64] | None:
        """Sizes in the progression; the last client also gets the rounding remainder. None: they are not finite."""
        numbers = np.arange(1, rows.clients + 1, dtype=float)
        with np.errstate(over="ignore", invalid="ignore"):
            units = {"linear": numbers, "square": numbers**2, "exponential": np.exp(numbers)}[self.skew]
            shares = units / units.sum()
        if not np.isfinite(shares).all():
            return None
        sizes: NDArray[np.int64] = (shares * len(rows.labels)).astype(np.int64)
        sizes[-1] += len(rows.labels) - sizes.sum()
        return sizes

    def _drawn(self, rows: ToPartition, rng: np.random.Generator) -> NDArray[np.int64] | None:
        """Sizes from a Dirichlet draw; None: no draw gives all clients enough."""
        for _ in range(DRAWS):
            shares = rng.dirichlet(np.full(rows.clients, self.alpha))
            ends = np.floor(np.cumsum(shares) * len(rows.labels) + 1e-6).astype(int)
            sizes = np.diff(ends, prepend=0)
            if sizes.min() >= self.min_size:
                return sizes.astype(np.int64)
        return None

    def _too_small(self, rows: ToPartition) -> str:
        alpha = f", alpha={self.alpha}" if self.skew == "dirichlet" else ""
        return (
            f"partition quantity: skew={self.skew}{alpha} over {rows.clients} clients leaves the smallest fewer than "
            f"{self.min_size} of the {len(rows.labels)} images. Lower data.partition.clients or data.partition.min_size"
            + (", or raise data.partition.alpha." if alpha else ", or choose a milder data.partition.skew (linear).")
        )
