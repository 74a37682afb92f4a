"""The bridge to `flwr_datasets.partitioner`: row numbers in, row numbers out.

The partitioners work on `datasets.Dataset`. Read as they are, 60,000 labels for 100 clients take 3 to 5 s, for
they iterate the label column row by row and copy one table a client. `table` answers the few calls that they make
(`[column]`, `select`, `sort`) from NumPy arrays, and the same work takes hundredths of a second.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedlens.data.base import ToPartition
from fedlens.errors import DataError
from fedlens.seeds import derive

if TYPE_CHECKING:
    from datasets import Dataset
    from flwr_datasets.partitioner import Partitioner

LABEL = "label"
"""The name of the label column."""


def shuffled(rows: ToPartition) -> NDArray[np.int64]:
    """The positions of `rows` in a random order of the seed, independent of what a partitioner draws from that seed.

    A partitioner cuts a class, or the list of rows sorted by class, where it stands. Neighbouring rows are often
    alike (one patient, one scene): cut in the order of the files, they would go to one client, and label skew would
    carry feature skew with it. NIID-Bench (`dirichlet`'s citation) also shuffles a class before it cuts it.
    """
    return np.random.default_rng(derive(rows.seed, "partition", "order")).permutation(len(rows.labels))


def deal(make: Callable[[], Partitioner], rows: ToPartition, order: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Run one partitioner over `rows` in `order`; clients are "client1", "client2", ….

    Raises:
        ValueError: the partitioner cannot meet what it was asked; the caller says so in the scheme's own terms.
        FloatingPointError: its arithmetic broke down (extreme parameters).
    """
    with warnings.catch_warnings(), np.errstate(divide="raise", invalid="raise"):
        warnings.simplefilter("ignore")
        partitioner = make()
        partitioner.dataset = table(rows.labels[order], order)
        parts = [np.asarray(partitioner.load_partition(number)) for number in range(partitioner.num_partitions)]
    return {f"client{number}": np.sort(part).astype(np.int64) for number, part in enumerate(parts, start=1)}


def table(labels: NDArray[np.int64], positions: NDArray[np.int64]) -> Dataset:
    """A label column whose `select` answers with `positions`."""
    from datasets import Dataset

    class Labels(Dataset):  # type: ignore[misc]
        def __getitem__(self, key: Any) -> Any:
            return labels if key == LABEL else super().__getitem__(key)

        def select(self, indices: Any, **_: Any) -> NDArray[np.int64]:
            return positions[np.fromiter(indices, np.int64, len(indices))]

        def sort(self, *_: Any, **__: Any) -> Dataset:
            order = np.argsort(labels, kind="stable")
            return table(labels[order], positions[order])

    return Labels.from_dict({LABEL: labels})


def check_clients(scheme: str, rows: ToPartition, min_size: int = 1) -> None:
    """Every client can have `min_size` rows.

    Raises:
        DataError: there are too few rows for that.
    """
    have, need = len(rows.labels), rows.clients * min_size
    if need > have:
        raise DataError(
            f"partition {scheme}: {rows.clients} clients of at least {min_size} need {need} images, but there are "
            f"{have}. Lower data.partition.clients" + (" or data.partition.min_size." if min_size > 1 else ".")
        )
