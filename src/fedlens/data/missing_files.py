"""Explains why a path in a table names no file, and how to fix it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from fedlens.core import files

PIXELS = "the table holds pixel values, not image files; write the images to files first"

_MANY_NUMBERS = re.compile(r"[\[(]?\s*\d+(\.\d+)?([\s,;]+\d+(\.\d+)?){15,}")
_PIXEL_COLUMN = re.compile(r"pixels?[ _-]?\d*|\d+x\d+", re.IGNORECASE)


def are_pixels(paths: Sequence[str]) -> bool:
    """Whether the first path is a list of numbers instead of a path."""
    return bool(paths and _MANY_NUMBERS.match(paths[0]))


def is_pixel_column(name: str) -> bool:
    """Whether a column is named as in tables of pixels: `pixels`, `pixel0`, `1x1`."""
    return _PIXEL_COLUMN.fullmatch(name) is not None


def is_file(folder: Path, name: str) -> bool:
    """Whether `name`, relative to `folder`, is a file; never raises, whatever the text."""
    return bool(name) and files.is_file(folder / name)


def _is_folder(folder: Path, name: str) -> bool:
    try:
        return (folder / name).is_dir()
    except (OSError, ValueError):
        return False


def way_out(folder: Path, name: str) -> str:
    """The probable mistake in a `name` that no file in `folder` has; "" if unknown."""
    if not name:
        return "Remove the rows, or give them a file"
    if re.match(r"[a-z][a-z0-9+]+://", name, re.IGNORECASE):
        return "These are addresses: download the images first"
    if "\\" in name and is_file(folder, name.replace("\\", "/")):
        return "Write / in place of \\ in the paths"
    if is_file(Path(), name):
        return f"Paths are relative to the table's folder, {folder}: move the table, or write whole paths"
    if similar := _similar(folder, name.replace("\\", "/")):
        return f"There is {similar}: write the names as they are on the disk"
    is_folder = "That is a folder, and each row names a file; p" if _is_folder(folder, name) else "P"
    return f"{is_folder}aths are relative to the table's folder"


def _similar(folder: Path, name: str) -> str | None:
    """A file whose name differs only in case, Unicode form or suffix."""
    place, parts = folder, Path(name).parts
    for part in parts:
        try:
            names = [part] if part == ".." or (place / part).exists() else [entry.name for entry in place.iterdir()]
        except (OSError, ValueError):
            return None
        same = [entry for entry in names if _plain(entry) == _plain(part)]
        if part is parts[-1]:
            same = same or [entry for entry in names if _plain(Path(entry).stem) == _plain(part)]
            same = same or [entry for entry in names if _plain(Path(entry).stem) == _plain(Path(part).stem)]
        if not same:
            return None
        place /= same[0]
    return str(place.relative_to(folder)) if place.is_file() else None


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
