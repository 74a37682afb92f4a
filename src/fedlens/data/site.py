"""The images of one site: one client holds all of them, and the label space is given by the federation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from fedlens.core.labels import UNLABELLED
from fedlens.data.cache import Decoding, build_cache
from fedlens.data.contents import copy_notes
from fedlens.data.division import Columns
from fedlens.data.modalities import with_texts
from fedlens.data.splits import client_splits, note_of_groups
from fedlens.data.types import FederatedData, ImageTable
from fedlens.errors import DataError


def relabelled(table: ImageTable, class_names: Sequence[str]) -> ImageTable:
    """`table` relabelled for the given `class_names`, of which it may hold only some.

    Raises:
        DataError: it has images of another class.
    """
    held = held_classes(table)
    unknown = [name for name in held if name not in class_names]
    if unknown:
        raise DataError(
            f"the server knows no {', '.join(unknown[:5])}; its {len(class_names)} classes are "
            f"{', '.join(class_names[:20])}{', …' if len(class_names) > 20 else ''}: rename or remove those folders "
            "here, or have the server take them in"
        )
    place = {name: index for index, name in enumerate(class_names)}
    mapped = np.array([*(place.get(name, -1) for name in table.class_names), UNLABELLED], np.int64)
    labels = mapped[np.where(table.labels == UNLABELLED, -1, table.labels)]
    return replace(table, labels=labels, class_names=tuple(class_names))


def held_classes(table: ImageTable) -> tuple[str, ...]:
    """The names of the classes that some row is of."""
    return tuple(table.class_names[label] for label in np.unique(table.labels) if label != UNLABELLED)


def one_client(
    table: ImageTable,
    name: str,
    decoding: Decoding,
    *,
    validation: float,
    client_test: float,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> FederatedData:
    """`table` as a federation of one client. Rows of the data's own "test" split are the client's test set.

    Splits are drawn as in `division.divide` for a client of that name, so a site holds out the same images as that
    client in a simulation.

    Raises:
        DataError: images cannot be decoded, or no training images are left.
    """
    cached = build_cache(table, decoding, progress)
    columns = Columns.of(table, cached.kept)
    rows = np.arange(len(columns.labels))
    official = rows[columns.split == "test"] if columns.split is not None else rows[:0]
    own_val = columns.split == "val" if columns.split is not None and (columns.split == "val").any() else None
    (client,) = client_splits(
        {name: np.setdiff1d(rows, official)},
        columns.labels,
        columns.groups,
        validation=validation,
        test=0.0 if len(official) else client_test,
        seed=seed,
        official_val=own_val,
    )
    client = replace(client, test=np.union1d(client.test, official))
    if not len(client.train):
        raise DataError(f"no images to train on: of {len(rows)} images, {len(rows)} are held out for tests")
    labels = torch.from_numpy(columns.labels)
    copies = copy_notes(cached.files, cached.contents, columns.labels, (client,), rows[:0])
    groups = note_of_groups(columns.labels, np.setdiff1d(rows, official), (client,))
    report = replace(cached.report, notes=(*table.notes, *copies, *groups))
    data = FederatedData(cached.images, labels, table.class_names, (client,), rows[:0], report, cached.key)
    return with_texts(data, table, cached.kept)
