"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) by torchvision, which verifies the files' checksums before opening them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from fedlens.data.cache_dir import default_cache_dir
from fedlens.data.types import ImageTable
from fedlens.errors import DataError


def load_cifar(name: Literal["CIFAR10", "CIFAR100"], path: Path | None) -> ImageTable:
    """The 50,000 training and 10,000 test images (184 MB) in `path`, downloaded if they are missing.

    Raises:
        DataError: there is no intact copy and the download fails.
    """
    from torchvision import datasets

    root = path.expanduser() if path else default_cache_dir() / "datasets"
    try:
        train = getattr(datasets, name)(root, train=True, download=True)
        test = getattr(datasets, name)(root, train=False)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{name} is not in {root} and cannot be downloaded ({str(error).strip().splitlines()[-1]}); fetch "
            f"{getattr(datasets, name).url} on a connected machine, put it in a folder and set data.path to that folder"
        ) from error
    return ImageTable(
        images=np.concatenate([train.data, test.data]),
        labels=np.array([*train.targets, *test.targets], np.int64),
        class_names=tuple(train.classes),
        split=np.repeat(["train", "test"], [len(train.data), len(test.data)]),
        channels=3,
        native_size=32,
    )
