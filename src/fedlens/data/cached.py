"""The content of the cache: its entries, their sizes and last use; and their removal.

Only names that FedLens itself creates are considered: the folder may contain other files.
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
    "texts": r"texts-[0-9a-f]{32}\.safetensors",
    "search": r"search-[0-9a-f]{32}\.safetensors",
    "partitions": r"[0-9a-f]{32}\.npz",  # from earlier versions
    "huggingface": r"\.?[0-9a-f]{16}-.+",
    DOWNLOADS: r"FashionMNIST|cifar-10.*",
}
"""Sub-folder → names of its cached entries. Incomplete entries start with a dot or end in .part."""


@dataclass(frozen=True)
class CacheEntry:
    """One entry of the cache.

    kind    its sub-folder
    size    bytes
    used    time of last use, in seconds since 1970
    about   the folder of its source images, or "unfinished"; empty if unknown
    """

    kind: str
    path: Path
    size: int
    used: float
    about: str

    def remove(self) -> None:
        """Remove it from the disk.

        Raises:
            DataError: it cannot be removed.
        """
        try:
            if self.path.is_dir():
                shutil.rmtree(self.path)
                return
            if self.kind == "images":
                _index(self.path).unlink(missing_ok=True)  # first: pixels without it are invalid
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise DataError(f"{error.filename}: cannot be removed ({error.strerror})") from error


def contents(cache_dir: Path) -> list[CacheEntry]:
    """The entries of the cache, the last used first, except those that a run is writing now."""
    return sorted(_entries(cache_dir), key=lambda entry: -entry.used)


def _entries(cache_dir: Path) -> Iterator[CacheEntry]:
    for kind, names in _NAMES.items():
        for path in (cache_dir / kind).glob("*"):
            begun = path.name.startswith(".") or path.suffix == ".part"
            if re.fullmatch(names, path.name) and (not begun or abandoned(path)):
                with suppress(FileNotFoundError):  # another process has just removed it
                    yield _entry(kind, path, "unfinished" if begun else _origin(kind, path))


def _entry(kind: str, path: Path, about: str) -> CacheEntry:
    files = [file.stat() for file in (path, *path.rglob("*")) if file.is_file()]
    used = path.stat().st_mtime
    if kind == DOWNLOADS:  # downloads have no time of last use of ours; the access time shows it
        used = max([used, *(file.st_atime for file in files)])
    return CacheEntry(kind, path, sum(file.st_size for file in files), used, about)


def _origin(kind: str, path: Path) -> str:
    if kind != "images":
        return ""
    try:
        return str(read_json(_index(path))["folder"] or "")
    except (OSError, ValueError, KeyError, TypeError):  # from an earlier version, or damaged
        return ""


def _index(pixels: Path) -> Path:
    return pixels.with_suffix(".json")
