"""The image files that a command line names: files, folders with all that is below them, and patterns such as "*.jpg"
that no shell has expanded."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from fedlens.core.words import count
from fedlens.data.summary import some
from fedlens.data.tree import is_image, natural, printable, walk
from fedlens.errors import DataError


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be read; `problem` names it."""

    image: Path
    problem: str


@dataclass(frozen=True)
class Found:
    """images: each once; problems: what names no image, with the reason; notes: what was passed over in folders."""

    images: tuple[Path, ...]
    problems: tuple[tuple[Path, str], ...]
    notes: tuple[str, ...]


def find_images(named: Iterable[Path]) -> Found:
    """The images that `named` stands for, in that order; those of one folder or pattern sorted by name.

    A file that is named itself is taken whatever its name: what it holds is known when it is read.
    """
    images: dict[str, Path] = {}
    problems: list[tuple[Path, str]] = []
    notes: dict[str, None] = {}
    for path in named:
        try:
            for image in _images_of(path.expanduser(), notes):
                images.setdefault(os.path.abspath(image), image)  # noqa: PTH100 - as in `relative`
        except DataError as error:
            problems.append((path, str(error)))
        except OSError as error:  # a name longer than names may be
            problems.append((path, f"{printable(path)}: {error.strerror}"))
    return Found(tuple(images.values()), tuple(problems), tuple(notes))


def relative(images: Iterable[Path]) -> dict[Path, Path]:
    """Each image's path from the folder that all of them share: never outside of it, and no two the same."""
    whole = {image: os.path.abspath(image) for image in images}  # noqa: PTH100 - links are not followed
    if not whole:
        return {}
    root = os.path.commonpath([os.path.dirname(path) for path in whole.values()])  # noqa: PTH120
    return {image: Path(os.path.relpath(path, root)) for image, path in whole.items()}


def _images_of(path: Path, notes: dict[str, None]) -> list[Path]:
    """Raises DataError: a folder or a pattern without any image; a folder that cannot be listed."""
    if path.is_dir():
        found, empty = _below(path, notes), "no image files in this folder or below it"
    elif glob.has_magic(str(path)) and not os.path.lexists(path):
        found, empty = _matching(path, notes), "no image file matches this pattern"
    else:
        return [path]
    if not found:
        raise DataError(f"{printable(path)}: {empty}")
    return found


def _matching(pattern: Path, notes: dict[str, None]) -> list[Path]:
    """What the pattern matches: image files, and those in folders."""
    matches = [Path(name) for name in sorted(glob.glob(str(pattern), recursive=True), key=natural)]  # noqa: PTH207
    images = [_below(match, notes) if match.is_dir() else [match] * is_image(match.name) for match in matches]
    return list(chain.from_iterable(images))


def _below(folder: Path, notes: dict[str, None]) -> list[Path]:
    tree, passed = walk(folder)
    if passed.other:
        suffixes = some([printable(name) for name in passed.other])
        many = count(passed.other.total(), "file")
        notes[f"{printable(folder)}: not taken for images, by their names: {many} ({suffixes})"] = None
    return [inner.path / name for _, inner in tree.below() for name in sorted(inner.images, key=natural)]
