"""Folders of images: what the folder sources share. Hidden files and folders are never looked at."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedlens.data.images import pixel_size
from fedlens.data.types import ImageTable
from fedlens.errors import DataError

IMAGE_SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".ico", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)
"""What counts as an image by its name; .heic is among them so that such files are reported, not passed over."""

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Folder names of official splits."""

_LOOKS = 8

CLASSES_FILE = "classes.json"
"""Beside the folders: a JSON list of the class names in the order of their labels."""


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that reads digits as numbers: client2 comes before client10."""
    return tuple((0, int(part), part) if part.isdecimal() else (1, 0, part) for part in re.findall(r"\d+|\D+", name))


def sub_folders(folder: Path) -> list[Path]:
    """The visible folders in `folder`, in natural order."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    return [folder / name for name in sorted(names, key=natural)]


def is_image(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)


def holds_images(folder: Path) -> bool:
    """Whether an image file lies directly in `folder`."""
    with os.scandir(folder) as entries:
        return any(is_image(entry.name) and entry.is_file() for entry in entries)


def images_below(folder: Path) -> Iterator[Path]:
    """All image files in `folder` and its sub-folders, in a fixed order."""
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        here = Path(parent)
        yield from (here / name for name in sorted(files) if is_image(name))


def existing_folder(path: Path) -> Path:
    """`path` with ~ expanded.

    Raises:
        DataError: there is no such folder.
    """
    folder = path.expanduser()
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DataError(f"data.path: {folder} {what}")
    return folder


def folder_table(root: Path, parts: Sequence[tuple[Path, str, str]], *, with_clients: bool) -> ImageTable:
    """One table of several folders of class folders: `parts` holds (folder, split or "", client or "").

    Labels follow `classes.json` in `root` where there is one, else the sorted names of all class folders.

    Raises:
        DataError: no images; images outside class folders; class folders that `classes.json` does not name.
    """
    found = [(part, folder) for part in parts for folder in sub_folders(part[0])]
    names = _class_names(root, {folder.name for _, folder in found})
    label_of = {name: label for label, name in enumerate(names)}
    images: list[Path] = []
    rows: list[tuple[int, str, str]] = []
    for (_, split, client), folder in found:
        files = list(images_below(folder))
        images += files
        rows += [(label_of[folder.name], split, client)] * len(files)
    if not images:
        raise DataError(_nothing_in(root))
    labels, splits, clients = zip(*rows, strict=True)
    return ImageTable(
        images=images,
        labels=np.array(labels, np.int64),
        class_names=names,
        split=_column(splits),
        clients=_column(clients) if with_clients else None,
        native_size=common_size(images),
    )


def common_size(images: Sequence[Path]) -> int | None:
    """The longer side, in pixels, that a few images spread over `images` all have; None where they differ.

    Only headers are read. Exported samples and small research sets come in one size; photographs do not.
    """
    some = images[:: max(len(images) // _LOOKS, 1)][:_LOOKS]
    sizes = {max(size) for size in map(pixel_size, some) if size}  # what cannot be read is counted later
    return sizes.pop() if len(sizes) == 1 else None


def _column(values: Sequence[str]) -> NDArray[np.str_] | None:
    return np.array(values, np.str_) if any(values) else None


def _class_names(root: Path, found: set[str]) -> tuple[str, ...]:
    file = root / CLASSES_FILE
    if not file.exists():
        return tuple(sorted(found))
    try:
        names = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: not a JSON list of class names: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise DataError(f"{file}: must be a JSON list of different class names")
    if extra := sorted(found - set(names)):
        raise DataError(f"{file} lacks the class folders {', '.join(extra)}; add them, or remove the file")
    return tuple(names)


def _nothing_in(root: Path) -> str:
    if holds_images(root):
        return f"data.path: the images in {root} lie outside class folders; make one folder a class: {root}/<class>/…"
    return (
        f"data.path: no images in {root}; expected <class>/<image>, <split>/<class>/<image> or <client>/<class>/<image>"
    )
