"""Rows without a label, which only a model that learns from pairs can use."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedlens.core.labels import UNLABELLED
from fedlens.core.words import count
from fedlens.data.export import take
from fedlens.data.modalities import masks, noted, only
from fedlens.data.types import FederatedData, ImageTable
from fedlens.errors import DataError


def without_unlabelled(table: ImageTable) -> ImageTable:
    """`table` for a model that learns from labels, with a note on the rows that are left out. They leave before rows
    are divided among clients and splits, so that these have the sizes asked for.

    Raises:
        DataError: no row has a label.
    """
    kept = np.flatnonzero(table.labels != UNLABELLED)
    if len(kept) == len(table.labels):
        return table
    if not len(kept):
        raise DataError("no row has a label, and the model learns from labels: give rows labels")
    gone = count(len(table.labels) - len(kept), "row")
    note = f"left out {gone} without a label, for the model learns from labels"
    return replace(take(table, kept), notes=(*table.notes, note))


def pairs_alone(data: FederatedData) -> FederatedData:
    """`data`, for a model that learns from pairs, without rows that have no label and are no pair either. A note in the
    report counts them.

    Raises:
        DataError: nothing is left.
    """
    images, texts = masks(data)
    useful = (data.labels.numpy() != UNLABELLED) | (images & texts)
    left, note = only(data, useful, useful, "without a label and without image or text")
    if note is None:
        return data
    if not left.clients:
        raise DataError("no client has a training row with a label, or with an image and a text: give rows labels")
    return noted(left, note)
