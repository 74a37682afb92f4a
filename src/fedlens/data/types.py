"""Data types: what a source returns, and what a federation trains on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from fedlens.core.labels import UNLABELLED, counted

if TYPE_CHECKING:  # importing torch takes longer than a search among pictures that are known
    from torch import Tensor

Rows = NDArray[np.int64]
"""Row numbers into the arrays of a `FederatedData`."""

POOLED = "all"
"""The name of the one client that has everybody's images."""

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class ImageTable:
    """What a source returns: images, encoded (paths) or decoded, with the data of each row.

    images       paths of image files, None: the row has a text only; or uint8 (N, H, W, C) with C = 1 or 3 (RGB)
    labels       int64 (N,), indexes into class_names; `UNLABELLED`: the row has an image and a text, and no label
    split        (N,) of "train", "val", "test", or None: the source has no official split
    clients      (N,) name of the client that owns the row ("" = none), or None
    groups       (N,) group of the row (a patient, a module): a group is never divided by a split; or None
    texts        (N,) text of the row ("" = none), or None: the source has no texts
    channels     1 if every image is grey, else 3
    native_size  typical side in pixels, or None if unknown (photographs)
    notes        lines for the user: how the images were read, and possible problems
    """

    images: Sequence[Path | None] | NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    split: NDArray[np.str_] | None = None
    clients: NDArray[np.str_] | None = None
    groups: NDArray[np.str_] | None = None
    texts: Sequence[str] | None = field(default=None, repr=False)
    channels: Literal[1, 3] = 3
    native_size: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def has_image(self) -> NDArray[np.bool_]:
        """(N,) whether each row has an image."""
        if isinstance(self.images, np.ndarray):
            return np.ones(len(self.images), bool)
        return np.array([path is not None for path in self.images], bool)

    @property
    def has_text(self) -> NDArray[np.bool_]:
        """(N,) whether each row has a text."""
        return np.zeros(len(self.labels), bool) if self.texts is None else np.array(list(map(bool, self.texts)), bool)


@dataclass(frozen=True)
class ClientRows:
    """The rows that one client holds."""

    name: str
    train: Rows
    val: Rows
    test: Rows


def distinct(parts: Sequence[Rows]) -> Rows:
    """The rows of all `parts` in their order, each once: clients may hold rows in common."""
    rows = np.concatenate([np.empty(0, np.int64), *parts])
    places = np.arange(len(rows))
    first = np.empty(int(rows.max(initial=-1)) + 1, np.int64)
    first[rows[::-1]] = places[::-1]  # of equal indices the last assignment stays; no sort of millions of rows
    together: Rows = rows[first[rows] == places]
    return together


@dataclass(frozen=True)
class DataReport:
    """What was read, and what was skipped.

    skipped  (file, reason)
    source   where the images came from: "imagefolder PHOTOS"
    scheme   how they were partitioned: "dirichlet α 0.3"
    unit     the singular of what the model takes: "image"; or "row", which may have a text alone
    """

    read: int
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = field(default=())
    source: str = ""
    scheme: str = ""
    unit: str = "image"

    @property
    def findings(self) -> tuple[str, ...]:
        """Lines for the user: skipped images, then the notes."""
        if not self.skipped:
            return self.notes
        file, reason = self.skipped[0]
        count = f"{len(self.skipped):,} of {self.read + len(self.skipped):,} images"
        return (f"left out {count} that cannot be read, such as {file} ({reason})", *self.notes)


@dataclass(frozen=True)
class HeldOut:
    """Classes that nobody trains on, and the rows of the data's own test set that show them. Row labels count on from
    the classes that are trained on."""

    class_names: tuple[str, ...]
    rows: Rows


@dataclass(frozen=True)
class Holdings:
    """What each client holds, in the clients' order. counts: images of each class, by split; unlabelled: training rows
    without a label."""

    counts: Mapping[Split, Sequence[tuple[int, ...]]]
    unlabelled: Sequence[int]


@dataclass(frozen=True)
class FederatedData:
    """Images, texts, labels, and the rows of each client.

    images     uint8 (N, S, S, C) RGB or grey, memory-mapped; or float (N, …) a user's own tensors, used as they are
    labels     int64 (N,), `UNLABELLED` for training rows without a label
    test       rows of the global test set (never used for training)
    texts      (N,) text of each row, "" where it has none; None: the data has no texts
    has_image  bool (N,), or None: every row has an image
    has_text   bool (N,), or None: the data has no texts
    text_inputs  (N, …) `texts` as the model takes them; None: it takes images alone
    held_out   classes that nobody trains on; None: there are none
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    clients: tuple[ClientRows, ...]
    test: Rows
    report: DataReport
    cache_key: str
    """Changes when any image, the order or the decoding changes; with the shape of `images` it is the key of derived
    data. Independent of the size that images are scaled to: runs at two sizes have the same images."""
    texts: Sequence[str] | None = field(default=None, repr=False)
    has_image: Tensor | None = None
    has_text: Tensor | None = None
    text_inputs: Tensor | None = None
    held_out: HeldOut | None = None

    @property
    def channels(self) -> int:
        return int(self.images.shape[-1]) if self.images.dtype.is_floating_point is False else int(self.images.shape[1])

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width in pixels; for data that are not images, the length of a row twice."""
        if self.images.ndim != 4:
            return int(self.images.shape[1]), int(self.images.shape[1])
        height, width = self.images.shape[2:] if self.images.is_floating_point() else self.images.shape[1:3]
        return int(height), int(width)

    @cached_property
    def division(self) -> str:
        """A digest of which client holds which rows. Class counts are not sufficient: another draw may give the same
        counts."""
        digest = hashlib.blake2b(digest_size=16)
        for name, rows in [(c.name, rows) for c in self.clients for rows in (c.train, c.val, c.test)] + [
            ("", self.test)
        ]:
            digest.update(f"{name}\0{len(rows)}\0".encode() + rows.astype(np.int64).tobytes())
        return digest.hexdigest()

    @property
    def val(self) -> Rows:
        """All clients' validation rows together, each once."""
        return distinct([client.val for client in self.clients])

    def pooled(self) -> FederatedData:
        """All clients' images in one place, as one client. What was held out stays held out."""
        parts = zip(*((client.train, client.val, client.test) for client in self.clients), strict=True)
        return replace(self, clients=(ClientRows(POOLED, *map(distinct, parts)),))

    def class_counts(self, rows: Rows) -> NDArray[np.int64]:
        """(classes,) number of `rows` with each label."""
        return counted(self.labels.numpy()[rows], len(self.class_names))

    def unlabelled(self, rows: Rows) -> int:
        """The number of `rows` without a label."""
        return int((self.labels.numpy()[rows] == UNLABELLED).sum())

    @cached_property
    def holdings(self) -> Holdings:
        """What every client holds, counted for all of them at once."""
        train = [client.train for client in self.clients]
        counts: dict[Split, Sequence[tuple[int, ...]]] = {
            "train": self._counted(train),
            "val": self._counted([client.val for client in self.clients]),
            "test": self._counted([client.test for client in self.clients]),
        }
        return Holdings(
            counts,
            [self.unlabelled(rows) for rows in train] if (self.labels == UNLABELLED).any() else [0] * len(train),
        )

    def _counted(self, parts: Sequence[Rows]) -> list[tuple[int, ...]]:
        """The number of rows with each label, of each of `parts`."""
        rows, classes = np.concatenate([np.empty(0, np.int64), *parts]), len(self.class_names)
        labels = self.labels.numpy()[rows]
        cells = np.repeat(np.arange(len(parts)) * classes, [len(rows) for rows in parts]) + labels
        counts = np.bincount(cells[labels != UNLABELLED], minlength=len(parts) * classes)
        return list(map(tuple, counts.reshape(len(parts), classes).tolist()))
