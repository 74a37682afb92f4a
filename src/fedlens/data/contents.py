"""Digests of image files' contents, independent of their modification times and locations."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedlens.core.files import read_regular
from fedlens.core.labels import UNLABELLED
from fedlens.data.images import MAX_FILE
from fedlens.data.tree import printable
from fedlens.data.types import ClientRows, Rows, distinct

DIGITS = 16
"""Hexadecimal digits of a content's digest; "-" × 16 for a file that cannot be read."""


def digest_of(path: Path) -> str:
    """The digest of a file's bytes."""
    try:
        return hashlib.blake2b(read_regular(path, MAX_FILE), digest_size=DIGITS // 2).hexdigest()
    except OSError:
        return "-" * DIGITS


def fingerprint(made_with: str, files: Sequence[Path | None], contents: Sequence[str]) -> str:
    """32 hex digits: a digest of the files' names below their common folder, and of their contents, in order; of a row
    without a file, that it has none. `made_with`: everything else that affects the resulting images."""
    digest = hashlib.blake2b(f"{made_with}\n".encode(), digest_size=16)
    names = [os.path.abspath(file) if file else "" for file in files]  # noqa: PTH100 - twenty times as fast as a Path
    folders = {os.path.dirname(name) for name in names if name}  # noqa: PTH120
    around = len(os.path.commonpath(folders)) if folders else 0
    for name, content in zip(names, contents, strict=True):
        digest.update(os.fsencode(name[around:]) + b"\0" + content.encode() + b"\n")
    return digest.hexdigest()


def copy_notes(
    files: Sequence[Path | None],
    contents: Sequence[str],
    labels: NDArray[np.int64],
    clients: Sequence[ClientRows],
    test: Rows,
) -> tuple[str, ...]:
    """Notes on images with identical content that are in both training and test, in several classes, or at several
    clients. Rows without an image, whose content is "", are no copies of each other."""
    unlike = [content or f"(row {row})" for row, content in enumerate(contents)]
    _, codes = np.unique(np.array(unlike), return_inverse=True)
    if not len(codes) or int(codes.max()) + 1 == len(codes):
        return ()
    train = np.concatenate([client.train for client in clients])
    owner = np.repeat(np.arange(len(clients)), [len(client.train) for client in clients])
    held_out: Mapping[str, Rows] = {
        "test": np.union1d(test, np.concatenate([client.test for client in clients])),
        "validation": np.concatenate([client.val for client in clients]),
    }
    found = [
        (f"of the {what} images are training images, too: accuracy comes out too high", _shared(codes, train, rows))
        for what, rows in held_out.items()
    ]
    labelled = np.flatnonzero(labels != UNLABELLED)
    found.append(("images lie in another class, too", _differing(codes, labelled, labels[labelled])))
    if len(distinct([train])) == len(train):  # where clients share images on purpose, copies of them are no news
        found.append(("training images are another client's, too", _differing(codes, train, owner)))
    return tuple(f"same content: {len(pairs):,} {what}; {_example(files, pairs[0])}" for what, pairs in found if pairs)


def _shared(codes: NDArray[np.int64], train: Rows, held_out: Rows) -> list[tuple[int, int]]:
    """(held-out row, a training row) with the same content."""
    place = dict(zip(codes[train].tolist(), train.tolist(), strict=True))
    rows = held_out[np.isin(codes[held_out], codes[train])].tolist()
    return [(row, place[int(codes[row])]) for row in rows]


def _differing(codes: NDArray[np.int64], rows: Rows, values: NDArray[np.int64]) -> list[tuple[int, int]]:
    """(row, an earlier row) with the same content but another value; `values` belong to `rows`."""
    first: dict[int, int] = {}
    pairs = []
    for at, code in enumerate(codes[rows].tolist()):
        before = first.setdefault(code, at)
        if values[before] != values[at]:
            pairs.append((int(rows[at]), int(rows[before])))
    return pairs


def _example(files: Sequence[Path | None], pair: tuple[int, int]) -> str:
    return f"such as {printable(str(files[pair[0]]))} and {printable(str(files[pair[1]]))}"
