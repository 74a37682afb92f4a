"""Features of image files on disk, so that each file is encoded once.

A file is known by its path, size and modification time, so no picture is opened to look its features up. Of paths, only
digests are stored. Where a file has changed, its new features replace the old ones.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from fedlens.core.files import mark_used, write_atomic

_DIGEST = 16
"""Bytes of each of the two digests of a file: that of its path, then that of its size and modification time."""

_OFTEN = 4096
"""New features that are written at the earliest. The more there are already, the more new ones are awaited, so that
writing the whole file again takes a small share of the time."""


Features = NDArray[np.float32]


class FeatureFile:
    """Features, float32 (width,) each, in one file, which is made when the first ones are written.

    problem  why features cannot be written; "": they can. The features themselves are not lost by it.
    """

    def __init__(self, path: Path, width: int) -> None:
        """A damaged file counts as empty."""
        self.problem = ""
        self._path = path
        self._known: dict[bytes, tuple[bytes, int]] = {}
        self._features: Features = np.empty((0, width), np.float32)
        self._new: list[Features] = []
        with suppress(OSError, SafetensorError, KeyError, ValueError):
            self._load(load_file(path), width)
            mark_used(path)

    def _load(self, tensors: dict[str, NDArray[Any]], width: int) -> None:
        names, features = tensors["files"], tensors["features"]
        if names.shape[1:] != (2 * _DIGEST,) or features.shape != (len(names), width):
            raise ValueError("features of another form")
        for row, name in enumerate(map(bytes, names)):
            self._known[name[:_DIGEST]] = name[_DIGEST:], row
        self._features = features

    def find(self, name: bytes) -> int | None:
        """The row of a file, by its `file_name`; None: it has to be encoded."""
        known = self._known.get(name[:_DIGEST])
        return known[1] if known and known[0] == name[_DIGEST:] else None

    def add(self, name: bytes, features: Features) -> int:
        """The row that they have from now on. What is added is written now and then, and by `write`."""
        row = len(self._features) + len(self._new)
        self._known[name[:_DIGEST]] = name[_DIGEST:], row
        self._new.append(features)
        if len(self._new) >= max(_OFTEN, len(self._features) // 4):
            self.write()
        return row

    def at(self, rows: list[int]) -> Features:
        """(len(rows), width)."""
        self._join()
        return self._features[np.array(rows, np.int64)]

    def write(self) -> None:
        """Write what has been added, if anything."""
        if not self._new:
            return
        self._join()
        names = b"".join(path + state for path, (state, _) in self._known.items())
        rows = [row for _, row in self._known.values()]
        tensors: dict[str, NDArray[Any]] = {
            "files": np.frombuffer(names, np.uint8).reshape(-1, 2 * _DIGEST),
            "features": self._features[rows],
        }
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._path, save(tensors))
        except OSError as error:
            self.problem = f"{self._path}: features cannot be stored ({error.strerror or error})"

    def _join(self) -> None:
        if self._new:
            self._features = np.concatenate([self._features, np.stack(self._new)])
            self._new = []


def file_name(path: Path) -> bytes:
    """What a `FeatureFile` knows a file by; of a file that is not there, what it never finds."""
    whole = os.path.abspath(path)  # noqa: PTH100 - Path.resolve follows links and takes twenty times as long
    try:
        found = os.stat(whole)  # noqa: PTH116 - the same, over thousands of files
    except OSError:
        return _digest(os.fsencode(whole)) + os.urandom(_DIGEST)
    return _digest(os.fsencode(whole)) + _digest(f"{found.st_size} {found.st_mtime_ns}".encode())


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST).digest()
