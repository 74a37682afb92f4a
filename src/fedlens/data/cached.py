"""What lies in the cache, how large it is and when it was used last; and removing it.

Only what has a name that FedLens gives is looked at: the folder may hold other things besides.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fedlens.core.files import read_json
from fedlens.data.cache import abandoned
from fedlens.errors import DataError

DOWNLOADS = "datasets"

_NAMES = {
    "images": r"[0-9a-f]{32}\.u8|\.building-.+",
    "features": r"features-[0-9a-f]{32}\.(f32|part)",
    "partitions": r"[0-9a-f]{32}\.npz",  # of earlier versions
    "huggingface": r"\.?[0-9a-f]{16}-.+",
    DOWNLOADS: r"FashionMNIST|cifar-10.*",
}
"""Sub-folder → names of what is cached in it. While it is being made, a dot comes first or .part last."""


@dataclass(frozen=True)
class CacheEntry:
    """One thing in the cache.

    kind    the sub-folder that it lies in
    size    bytes
    used    when it was used last, in seconds since 1970
    about   the folder of the images that it was made of, or "unfinished"; empty when nothing is known
    """

    kind: str
    path: Path
    size: int
    used: float
    about: str

    def remove(self) -> None:
        """Remove it from the disk.

        Raises:
            DataError: it may not be removed.
        """
        try:
            if self.path.is_dir():
                shutil.rmtree(self.path)
                return
            if self.kind == "images":
                _index(self.path).unlink(missing_ok=True)  # first: pixels without it do not count
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise DataError(f"{error.filename}: cannot be removed ({error.strerror})") from error


def contents(cache_dir: Path) -> list[CacheEntry]:
    """What the cache holds, the last used first, without what a run is making at the moment."""
    return sorted(_entries(cache_dir), key=lambda entry: -entry.used)


def _entries(cache_dir: Path) -> Iterator[CacheEntry]:
    for kind, names in _NAMES.items():
        for path in (cache_dir / kind).glob("*"):
            begun = path.name.startswith(".") or path.suffix == ".part"
            if re.fullmatch(names, path.name) and (not begun or abandoned(path)):
                with suppress(FileNotFoundError):  # somebody has just removed it
                    yield _entry(kind, path, "unfinished" if begun else _origin(kind, path))


def _entry(kind: str, path: Path, about: str) -> CacheEntry:
    files = [file.stat() for file in (path, *path.rglob("*")) if file.is_file()]
    used = path.stat().st_mtime
    if kind == DOWNLOADS:  # nobody marks these, but reading them leaves a trace
        used = max([used, *(file.st_atime for file in files)])
    return CacheEntry(kind, path, sum(file.st_size for file in files), used, about)


def _origin(kind: str, path: Path) -> str:
    if kind != "images":
        return ""
    try:
        return str(read_json(_index(path))["folder"] or "")
    except (OSError, ValueError, KeyError, TypeError):  # made by an earlier version, or damaged
        return ""


def _index(pixels: Path) -> Path:
    return pixels.with_suffix(".json")
