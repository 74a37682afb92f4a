"""The pictures that an exported model is tried on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedlens.build.builders import build_data
from fedlens.build.load import load_saved
from fedlens.config.blocks import AUTO, PYTHON
from fedlens.core import clean
from fedlens.core.words import count
from fedlens.data.types import FederatedData, Rows
from fedlens.errors import DataError, FedLensError
from fedlens.models.description import ModelDescription
from fedlens.tracking.observer import Silent
from fedlens.tracking.run_dir import RunDir
from fedlens.tracking.saved import read_saved

MOST = 500
"""Test images that are tried: enough to see a difference, and seconds for a small model on a CPU."""

RANDOM = 16


@dataclass(frozen=True)
class Probe:
    """pixels: uint8 (N, S, S, C); what: which pictures they are; note: why they are no test images, or ""."""

    pixels: Tensor
    what: str
    note: str = ""


def images_of_test(run: RunDir, description: ModelDescription) -> Probe:
    """Test images of the run; random pictures where they cannot be had."""
    try:
        images = _images_of(run)
        if list(images.images.shape[1:]) != _shape(description):
            raise DataError("the images have another size than those of this run")
    except FedLensError as error:
        return random_pictures(description, clean.line(str(error)))
    return of_rows(images, images.test, "of the run")


def of_rows(images: FederatedData, rows: Rows, whose: str) -> Probe:
    """At most `MOST` of the test `rows`, spread over all of them."""
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST)).round().astype(np.int64))]
    many = count(len(rows), "test image")
    what = f"the {many} {whose}" if len(chosen) == len(rows) else f"{len(chosen):,} of the {many} {whose}"
    return Probe(images.images[torch.from_numpy(chosen)], what)


def random_pictures(description: ModelDescription, why: str) -> Probe:
    """Pictures of noise, the same every time."""
    generator = torch.Generator().manual_seed(0)
    shape = [RANDOM, *_shape(description)]
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return Probe(pixels, f"{RANDOM} random pictures", f"tried on random pictures, not on test images: {why}")


def _shape(description: ModelDescription) -> list[int]:
    return [description.image_size, description.image_size, description.image_channels]


def _images_of(run: RunDir) -> FederatedData:
    """Raises FedLensError: the run's test images are not here."""
    config, sites = load_saved(run.config), run.superlink.exists()
    if config.data.source == PYTHON:
        raise DataError("the run's images were given from Python")
    if sites and config.data.path is None and config.data.source == AUTO:
        raise DataError("only the sites have images")
    images = build_data(config, Silent().progress, simulated=not sites)
    if read_saved(run.fingerprint, str) != images.cache_key:
        raise DataError("the images are not those of this run")
    if not len(images.test):
        raise DataError("the run has no test images")
    return images
