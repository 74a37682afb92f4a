"""What a run would leave out of a table: images that cannot be decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fedlens.data.cache import Decoding, build_cache
from fedlens.data.export import take
from fedlens.data.types import ImageTable


def readable(table: ImageTable, decoding: Decoding, progress: Callable[[int, int], None] | None = None) -> ImageTable:
    """`table` without the images that cannot be decoded, and a note on them.

    Only decoding shows which: the header of a file that was cut is whole. The images go into the cache, where a run
    with that image size finds them.

    Raises:
        DataError: none can be decoded, or the cache cannot be written.
    """
    if isinstance(table.images, np.ndarray):
        return table
    cached = build_cache(table, decoding, progress)
    skipped = cached.report.skipped
    if not skipped:
        return table
    file, reason = skipped[0]
    note = f"left out {len(skipped):,} of {len(table.labels):,} images that cannot be read, such as {file} ({reason})"
    return replace(take(table, cached.kept), notes=(*table.notes, note))
