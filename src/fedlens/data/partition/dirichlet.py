"""Label skew drawn from a Dirichlet distribution.

Yurochkin et al., "Bayesian Nonparametric Federated Learning of Neural Networks", ICML 2019; Li et al.,
"Federated Learning on Non-IID Data Silos" (NIID-Bench), ICDE 2022, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedlens.core.limits import NumberOrNone
from fedlens.data.base import Scheme, ToPartition, schemes
from fedlens.data.partition.cutting import by_class, check_clients, named
from fedlens.errors import DataError

DRAWS, SEEDS = 11, 10
"""The number of draws per seed, and of seeds, that are tried. With alpha 0.1 and 100 clients, the 11 draws of one seed
give every client 10 images in three cases out of four."""


@schemes.register("dirichlet", "label skew: a Dirichlet draw shares out each class (small alpha: few classes each)")
@dataclass(frozen=True)
class Dirichlet(Scheme):
    """Each class is shuffled, then split into the clients' shares. alpha: 0.1 is strong skew, 100 nearly iid.
    `balanced`: a client that has reached an even share gets no further class (the cap of NIID-Bench)."""

    alpha: Annotated[float, Field(gt=0)] = 0.5
    min_size: NumberOrNone = 10
    balanced: bool = False

    def assign(self, rows: ToPartition) -> dict[str, NDArray[np.int64]]:
        check_clients("dirichlet", rows, max(self.min_size, 1))
        classes = list(by_class(rows).values())
        for seed in [rows.seed, *np.random.SeedSequence(rows.seed).generate_state(SEEDS - 1).tolist()]:
            rng = np.random.default_rng(seed)
            for _ in range(DRAWS):
                parts = self._draw(classes, rows.clients, rng)
                if parts is None:
                    break
                if min(map(len, parts)) >= self.min_size:
                    return named(parts)
        raise DataError(
            f"partition dirichlet: with alpha={self.alpha} over {rows.clients} clients, no draw of {DRAWS * SEEDS} "
            f"gave every client {self.min_size} of the {len(rows.labels)} images. Raise data.partition.alpha, lower "
            "data.partition.clients or data.partition.min_size, or set data.partition.balanced=true."
        )

    def _draw(
        self, classes: Sequence[NDArray[np.int64]], clients: int, rng: np.random.Generator
    ) -> list[NDArray[np.int64]] | None:
        """One draw for every class; None if the shares are not finite (an extreme alpha)."""
        parts: list[list[NDArray[np.int64]]] = [[] for _ in range(clients)]
        held, even = np.zeros(clients), sum(map(len, classes)) / clients
        for rows in classes:
            shares = rng.dirichlet(np.full(clients, self.alpha))
            if self.balanced:
                shares = np.where(held > even, 0.0, shares)
            if not (np.isfinite(shares).all() and shares.sum()):
                return None
            if self.balanced:
                shares = shares / np.cumsum(shares)[-1]
            pieces = np.split(rows, (np.cumsum(shares) * len(rows)).astype(int)[:-1])
            for part, piece in zip(parts, pieces, strict=True):
                part.append(piece)
            held += [len(piece) for piece in pieces]
        return [np.concatenate(part) for part in parts]
