"""A tree of image folders that visits every real folder once, and counts what was skipped."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fedlens.data.labels import normalized
from fedlens.errors import DataError

IMAGE_SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".ico", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)
"""File suffixes of images; .heic is included so that such files are reported instead of skipped."""

SYSTEM_FOLDERS = frozenset(
    {
        *("__macosx", "@eadir", "@tmp", "#recycle", "@recycle", "#snapshot", "$recycle.bin", "recycler"),
        *("lost+found", "system volume information", "__pycache__"),
    }
)
"""Folders of operating systems and network drives, in lower case; they may contain previews and deleted images."""

SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini"})

CLASSES_FILE = "classes.json"
"""Next to the folders: a JSON list of the class names in label order."""

MANIFEST_FILE = "manifest.csv"
"""Beside the folders, and in each client's: the rows with what folders cannot hold."""

OWN_FILES = frozenset({CLASSES_FILE, "partition.json", MANIFEST_FILE, "partition.png", "partition.html"})
"""Files that FedLens writes next to folders of clients or classes."""


@dataclass
class Folder:
    """images: names of the image files directly inside; folders: in natural order after the walk."""

    path: Path
    images: list[str] = field(default_factory=list)
    folders: list[Folder] = field(default_factory=list)

    @property
    def name(self) -> str:
        """`normalized`."""
        return normalized(self.path.name)

    def below(self, parts: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Folder]]:
        """This folder and all below it, parents first, each with its path of names."""
        waiting = [(parts, self)]
        while waiting:
            names, folder = waiting.pop()
            yield names, folder
            waiting.extend(((*names, inner.name), inner) for inner in reversed(folder.folders))


@dataclass
class PassedOver:
    """system: hidden and system files and folders; other: files that are not images, by suffix; links: those to folders
    that are read already."""

    system: Counter[str] = field(default_factory=Counter)
    other: Counter[str] = field(default_factory=Counter)
    links: list[Path] = field(default_factory=list)


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that compares digits as numbers: client2 comes before client10."""
    return tuple((0, int(part), part) if part.isdecimal() else (1, 0, part) for part in re.findall(r"\d+|\D+", name))


def is_system(name: str) -> bool:
    """Whether a file or folder is hidden or a system's own."""
    return name.startswith(".") or name.casefold() in SYSTEM_FOLDERS or name.casefold() in SYSTEM_FILES


def is_image(name: str) -> bool:
    return name.casefold().endswith(IMAGE_SUFFIXES)


def printable(path: str | Path) -> str:
    """A path as printable text: bytes that are not UTF-8 and control characters are escaped."""
    text = os.fsencode(path).decode(errors="backslashreplace")
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def walk(root: Path) -> tuple[Folder, PassedOver]:
    """The tree below `root`. Links to folders are followed, except to folders that are read anyway.

    Raises:
        DataError: a folder cannot be listed.
    """
    return _Walk(root).done()


class _Walk:
    """One walk: real folders before links, so that a folder is visited under its own name if possible."""

    def __init__(self, root: Path) -> None:
        real = Path(os.path.realpath(root))
        self._top, self._passed = Folder(root), PassedOver()
        self._known = {str(folder) for folder in (real, *real.parents)}  # a link to a parent is a loop
        self._waiting = [(self._top, str(real))]
        self._links: list[tuple[Folder, str]] = []

    def done(self) -> tuple[Folder, PassedOver]:
        while self._waiting or self._links:
            while self._waiting:
                self._list(*self._waiting.pop())
            if self._links:
                parent, name = self._links.pop(0)
                self._enter(parent, name, os.path.realpath(parent.path / name))
        for _, folder in self._top.below():
            folder.folders.sort(key=lambda inner: natural(inner.path.name))
            folder.images.sort()
        return self._top, self._passed

    def _list(self, folder: Folder, real: str) -> None:
        try:
            with os.scandir(folder.path) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    self._take(folder, real, entry)
        except OSError as error:
            raise DataError(
                f"{printable(folder.path)}: the folder cannot be listed ({error.strerror}); make it readable, or move "
                "it away"
            ) from error

    def _take(self, folder: Folder, real: str, entry: os.DirEntry[str]) -> None:
        name = entry.name
        if name == MANIFEST_FILE or (folder is self._top and name in OWN_FILES):
            return
        if is_system(name):
            self._passed.system["._…" if name.startswith("._") else name] += 1
        elif entry.is_dir():
            if entry.is_symlink():
                self._links.append((folder, name))
            else:
                self._enter(folder, name, os.path.join(real, name))  # noqa: PTH118 - a Path takes twenty times as long
        elif is_image(name) and entry.is_file():
            folder.images.append(name)
        else:
            broken = entry.is_symlink() and not entry.is_file()
            self._passed.other["broken link" if broken else os.path.splitext(name)[1].casefold() or "no suffix"] += 1  # noqa: PTH122

    def _enter(self, parent: Folder, name: str, real: str) -> None:
        path = parent.path / name
        if real in self._known:
            self._passed.links.append(path)
            return
        self._known.add(real)
        parent.folders.append(Folder(path))
        self._waiting.append((parent.folders[-1], real))
