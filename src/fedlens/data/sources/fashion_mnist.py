"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747): 70,000 grey pictures of clothes, MIT licence."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedlens.data.base import Source, sources
from fedlens.data.cache_dir import default_cache_dir
from fedlens.data.types import ImageTable
from fedlens.errors import DataError

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""The folder of Debian's package dataset-fashion-mnist."""

_PARTS = {"train": "train", "test": "t10k"}


@sources.register(
    "fashion_mnist", summary="Fashion-MNIST, 60,000 + 10,000 grey pictures of clothes; downloaded if absent"
)
@dataclass(frozen=True)
class FashionMNIST(Source):
    """`path`: a folder with the IDX files (gzipped or not, directly or in torchvision's layout), also for the download;
    default: FedLens' cache folder, then Debian's package."""

    path: Annotated[
        Path | None,
        Field(description="folder of the files; default: Debian's package, else the user's cache"),
    ] = None

    def load(self) -> ImageTable:
        """Read all 70,000 images (55 MB).

        Raises:
            DataError: a file is damaged; or there is no copy and the download fails.
        """
        root = self.path.expanduser() if self.path else default_cache_dir() / "datasets"
        candidates = [root, root / "FashionMNIST" / "raw", *([] if self.path else [DEBIAN])]
        folder = next((folder for folder in candidates if _complete(folder)), None) or _download(root)
        parts = {split: read_part(folder, split) for split in _PARTS}
        return ImageTable(
            images=np.concatenate([images for images, _ in parts.values()])[..., None],
            labels=np.concatenate([labels for _, labels in parts.values()]).astype(np.int64),
            class_names=CLASS_NAMES,
            split=np.repeat(list(parts), [len(labels) for _, labels in parts.values()]),
            channels=1,
            native_size=28,
        )


def read_part(folder: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (N, 28, 28) and labels (N,) of "train" or "test" from the IDX files in `folder`.

    Raises:
        DataError: a file is missing or damaged.
    """
    prefix = _PARTS[split]
    images = read_idx(_file(folder, f"{prefix}-images-idx3-ubyte"))
    labels = read_idx(_file(folder, f"{prefix}-labels-idx1-ubyte"))
    if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1] or labels.max(initial=0) >= len(CLASS_NAMES):
        raise DataError(
            f"{folder}: the {split} files of Fashion-MNIST do not fit together; remove them to download anew"
        )
    return images, labels


def read_idx(file: Path) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes, gzipped or not (format: http://yann.lecun.com/exdb/mnist).

    Raises:
        DataError: it is missing, damaged, or its elements are not unsigned bytes.
    """
    try:
        data = file.read_bytes()
        data = gzip.decompress(data) if file.suffix == ".gz" else data
        if data[:3] != b"\0\0\x08":
            raise ValueError("not an IDX file of bytes")
        axes = data[3]
        shape = np.frombuffer(data, ">u4", count=axes, offset=4)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(tuple(map(int, shape)))
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise DataError(f"{file}: {error}; remove it to download it anew") from error


def _file(folder: Path, name: str) -> Path:
    """The uncompressed file if it exists, else the gzipped one."""
    plain = folder / name
    return plain if plain.exists() else folder / f"{name}.gz"


def _complete(folder: Path) -> bool:
    kinds = ("images-idx3-ubyte", "labels-idx1-ubyte")
    return all(_file(folder, f"{prefix}-{kind}").exists() for prefix in _PARTS.values() for kind in kinds)


def _download(root: Path) -> Path:
    """Download the files into `root` and verify their checksums; returns their folder.

    Raises:
        DataError: there is no connection, a checksum is wrong, or the disk is full.
    """
    from torchvision.datasets import FashionMNIST as Torchvision

    try:
        return Path(Torchvision(root, download=True).raw_folder)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"Fashion-MNIST is not in {root} and cannot be downloaded ({str(error).strip().splitlines()[-1]}); install "
            "Debian's dataset-fashion-mnist, or fetch it on a connected machine and set data.path to its folder"
        ) from error
