"""Finds problems in a table before a run: images that cannot be decoded, and images with the same content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fedlens.data.cache import Decoding, build_cache
from fedlens.data.contents import copy_notes
from fedlens.data.export import take
from fedlens.data.types import ClientRows, ImageTable, Rows


def readable(table: ImageTable, decoding: Decoding, progress: Callable[[int, int], None] | None = None) -> ImageTable:
    """`table` without the images that cannot be decoded, and notes on them and on copies.

    All images are decoded, because a truncated file has an intact header. The images are cached, so a run with the same
    image size does not decode them again.

    Raises:
        DataError: no image can be decoded, or the cache cannot be written.
    """
    if isinstance(table.images, np.ndarray):
        return table
    cached = build_cache(table, decoding, progress)
    left = take(table, cached.kept)
    copies = copy_notes(cached.files, cached.contents, left.labels, *_as_divided(left))
    return replace(left, notes=(*left.notes, *cached.report.findings, *copies))


def _as_divided(table: ImageTable) -> tuple[list[ClientRows], Rows]:
    """The clients and the test rows given by the data itself."""
    rows = np.arange(len(table.labels))
    split = np.full(len(rows), "train") if table.split is None else table.split
    owners = np.full(len(rows), "") if table.clients is None else table.clients
    clients = []
    for name in np.unique(owners).tolist():
        own = owners == name
        train, val = (rows[own & (split == part)] for part in ("train", "val"))
        clients.append(ClientRows(name, train, val, rows[:0]))
    return clients, rows[split == "test"]
