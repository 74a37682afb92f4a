"""Common functions of the schemes: shuffling rows, splitting them, and naming clients."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fedlens.core.seeds import derive
from fedlens.data.base import ToPartition
from fedlens.errors import DataError


def shuffled(rows: ToPartition) -> NDArray[np.int64]:
    """The positions of `rows` in a random order from the seed, independent of a scheme's own random draws.

    A scheme splits a class into consecutive parts. Neighbouring rows are often similar (one patient, one scene): split
    in file order, they would go to one client, and label skew would come with feature skew. NIID-Bench (`dirichlet`'s
    citation) also shuffles each class before splitting it.
    """
    return np.random.default_rng(derive(rows.seed, "partition", "order")).permutation(len(rows.labels))


def by_class(rows: ToPartition) -> dict[int, NDArray[np.int64]]:
    """Label → the positions of its rows, shuffled; labels ascending."""
    order = shuffled(rows)
    labels = rows.labels[order]
    return {int(label): order[labels == label] for label in np.unique(labels)}


def named(parts: Iterable[NDArray[np.int64]]) -> dict[str, NDArray[np.int64]]:
    """The clients "client1", "client2", … with their positions in ascending order."""
    return {f"client{number}": np.sort(part).astype(np.int64) for number, part in enumerate(parts, start=1)}


def check_clients(scheme: str, rows: ToPartition, min_size: int = 1) -> None:
    """Check that every client can get `min_size` rows.

    Raises:
        DataError: there are too few rows.
    """
    have, need = len(rows.labels), rows.clients * min_size
    if need > have:
        raise DataError(
            f"partition {scheme}: {rows.clients} clients of at least {min_size} need {need} images, but there are "
            f"{have}. Lower data.partition.clients" + (" or data.partition.min_size." if min_size > 1 else ".")
        )
