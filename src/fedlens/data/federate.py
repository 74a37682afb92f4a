"""Builds a federation from a table of images and texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from fedlens.data.base import described
from fedlens.data.cache import Decoding, build_cache
from fedlens.data.contents import copy_notes
from fedlens.data.division import Columns, DivisionPlan, divide, findings_told
from fedlens.data.modalities import with_texts
from fedlens.data.types import FederatedData, ImageTable


def federate(
    table: ImageTable, plan: DivisionPlan, decoding: Decoding, progress: Callable[[int, int], None] | None = None
) -> FederatedData:
    """Decode the images or load them from the cache, and divide their rows among clients and splits.

    `progress` is called with (images done, images in all) while decoding.

    Raises:
        DataError: images cannot be decoded, the scheme cannot be applied, or no training images are left.
    """
    cached = build_cache(table, decoding, progress)
    columns = Columns.of(table, cached.kept)
    with findings_told(replace(cached.report, notes=table.notes)):
        division = divide(columns, plan)
    copies = copy_notes(cached.files, cached.contents, columns.labels, division.clients, division.test)
    data = FederatedData(
        cached.images,
        torch.from_numpy(columns.labels),
        table.class_names,
        division.clients,
        division.test,
        replace(cached.report, notes=(*table.notes, *copies, *division.notes), scheme=described(division.scheme)),
        cached.key,
    )
    return with_texts(data, table, cached.kept)
