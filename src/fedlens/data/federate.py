"""From a table of images to a federation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from fedlens.data.base import Scheme, described
from fedlens.data.cache import build_cache, default_cache_dir
from fedlens.data.contents import copy_notes
from fedlens.data.division import Columns, Plan, divide
from fedlens.data.images import MAX_PIXELS
from fedlens.data.types import FederatedData, ImageTable
from fedlens.errors import DataError


def federate(
    table: ImageTable,
    *,
    scheme: Scheme | None,
    clients: int,
    image_size: int,
    validation: float,
    client_test: float,
    test: float,
    seed: int,
    partition_seed: int | None = None,
    on_bad_image: Literal["skip", "fail"] = "skip",
    max_pixels: int = MAX_PIXELS,
    cache_dir: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FederatedData:
    """Decode (or find decoded) the images, and divide their rows among clients and splits (see `Plan`).

    `progress` is called with (images done, images in all) while decoding.

    Raises:
        DataError: images cannot be decoded, the scheme cannot be met, or nothing is left to train on.
    """
    cached = build_cache(
        table,
        image_size=image_size,
        cache_dir=cache_dir,
        on_bad_image=on_bad_image,
        max_pixels=max_pixels,
        progress=progress,
    )
    columns = Columns.of(table, cached.kept)
    plan = Plan(scheme, clients, validation, client_test, test, seed, partition_seed)
    try:
        division = divide(columns, plan, cache_dir.expanduser() if cache_dir else default_cache_dir())
    except DataError as error:  # how the data was read may be the reason
        raise DataError(" ".join((str(error), *(f"({note})" for note in table.notes[:1])))) from error
    copies = copy_notes(cached.files, cached.contents, columns.labels, division.clients, division.test)
    return FederatedData(
        cached.images,
        torch.from_numpy(columns.labels),
        table.class_names,
        division.clients,
        division.test,
        replace(cached.report, notes=(*table.notes, *copies, *division.notes), scheme=described(division.scheme)),
        cached.key,
    )
