"""Decoded images on disk: one memory-mapped file of uint8 pixels for each table and size.

`<cache_dir>/images/<key>.u8` holds the pixels (M, S, S, C), row by row; a row without an image is black. `<key>.json`
beside it lists the files that could not be decoded and the folder that contains all files. It is renamed to its final
name last: pixels without it are invalid. Two processes that build the same cache at once write the same bytes in
separate folders; the last rename wins.
The modification time of the pixel file is that of its last use.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, Literal

import numpy as np
import torch
from torch import Tensor

from fedlens.core.files import mark_used, read_json, write_json
from fedlens.data.cache_dir import default_cache_dir
from fedlens.data.contents import DIGITS, digest_of, fingerprint
from fedlens.data.images import DECODING, MAX_PIXELS, Pixels, fit, read
from fedlens.data.types import DataReport, ImageTable, Rows
from fedlens.errors import DataError

CHUNK = 256
"""Images decoded between two writes; bounds the memory."""

STAGING = ".building-"
"""Name prefix of the folders in which a cache is built."""

A_DAY = 86400
"""Seconds without a change after which such a folder counts as abandoned by a killed run."""

OnBadImage = Literal["skip", "fail"]
Skipped = dict[int, tuple[str, str]]
"""Row → (file, reason)."""

Decoded = tuple[str, "Pixels | str | None"]
"""The digest of a file's content ("" for pixels without a file), and its square image, the reason for its absence, or
None for a row without an image."""

Decode = Callable[[Path | None], Decoded]

_NO_FILE = "." * DIGITS
"""Stored in place of a digest for a row without an image."""


@dataclass(frozen=True)
class Decoding:
    """How images are decoded, to `image_size` pixels per side, and where they are cached.

    `on_bad_image`: whether an undecodable image is skipped; `max_pixels`: see `images.read`; `cache_dir` None:
    `default_cache_dir`.
    """

    image_size: int
    on_bad_image: OnBadImage = "skip"
    max_pixels: int = MAX_PIXELS
    cache_dir: Path | None = None


@dataclass(frozen=True)
class CachedImages:
    """The rows of a table but those whose image could not be decoded.

    images  uint8 (M, S, S, C), copy-on-write mapping of `file`; black where a row has no image
    kept    int64 (M,), the table's row of each image, ascending
    report  `read` counts the rows that have an image
    key     changes when any image, the order, the decoding or which rows have no image changes; independent of size and
            channels, which are in the shape of `images`, and of the files' location
    files, contents  for each row its file, and the digest of the file's content (None and "" for a row without an
            image); empty for pixels without files
    """

    images: Tensor
    kept: Rows
    report: DataReport
    key: str
    file: Path
    files: tuple[Path | None, ...] = ()
    contents: tuple[str, ...] = ()


def build_cache(
    table: ImageTable, decoding: Decoding, progress: Callable[[int, int], None] | None = None
) -> CachedImages:
    """Decode every image of `table`, or reuse an existing cache.

    A cache is identified by the files' paths, sizes, modes and modification times, so no file is opened if it exists.
    `progress` is called with (images done, images in all) while decoding.

    Raises:
        DataError: no image can be decoded; one cannot and `on_bad_image` is "fail"; the disk is full; or the cache
        folder cannot be written.
    """
    image_size, max_pixels, on_bad_image = decoding.image_size, decoding.max_pixels, decoding.on_bad_image
    pixel_digest = _pixel_digest(table)
    name = cache_name(table, image_size, max_pixels, pixel_digest)
    folder = (decoding.cache_dir.expanduser() if decoding.cache_dir else default_cache_dir()) / "images"
    pixels, index = folder / f"{name}.u8", folder / f"{name}.json"
    row_bytes = image_size * image_size * table.channels
    found = _find(pixels, index, table, row_bytes)
    if found is None:
        decode_one = partial(_read_or_reason, size=image_size, channels=table.channels, max_pixels=max_pixels)
        found = _write(table, image_size, decode_one, pixels, index, on_bad_image, progress)
    else:
        mark_used(pixels)
    skipped, contents = found
    if skipped and on_bad_image == "fail":
        raise _bad_image(skipped)
    every, missing = np.arange(len(table.labels)), np.fromiter(skipped, np.int64, len(skipped))
    kept = np.setdiff1d(every, missing, assume_unique=True)  # else NumPy imports numpy.ma, for a tenth of a second
    mapped = np.memmap(pixels, np.uint8, mode="c", shape=(len(kept), image_size, image_size, table.channels))
    report = DataReport(int(table.has_image.sum()) - len(skipped), tuple(skipped.values()))
    if isinstance(table.images, np.ndarray):
        return CachedImages(torch.from_numpy(mapped), kept, report, pixel_digest, pixels)
    rows = kept.tolist()
    files = tuple(table.images[row] for row in rows)
    digests = tuple("" if contents[row] == _NO_FILE else contents[row] for row in rows)
    key = fingerprint(f"{DECODING} {max_pixels}", files, digests)
    return CachedImages(torch.from_numpy(mapped), kept, report, key, pixels, files, digests)


def cache_name(table: ImageTable, image_size: int, max_pixels: int = MAX_PIXELS, pixel_digest: str = "") -> str:
    """32 hex digits: a digest of the files' paths, sizes, modes and modification times, or of `pixel_digest`."""
    how = f"{DECODING} {image_size} {table.channels} {max_pixels}\n"
    digest = hashlib.blake2b(how.encode(), digest_size=16)
    if isinstance(table.images, np.ndarray):
        digest.update(pixel_digest.encode())
    else:
        digest.update("\0".join(map(_signature, table.images)).encode(errors="surrogateescape"))
    return digest.hexdigest()


def _pixel_digest(table: ImageTable) -> str:
    """32 hex digits: a digest of pixels without files; empty for a table of files."""
    if not isinstance(table.images, np.ndarray):
        return ""
    digest = hashlib.blake2b(f"{DECODING} {table.images.shape}\n".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(table.images).data)
    return digest.hexdigest()


def _signature(path: Path | None) -> str:
    if path is None:
        return ""
    name = os.path.abspath(path)  # noqa: PTH100 - Path.resolve follows links and takes twenty times as long
    try:
        found = os.stat(name)  # noqa: PTH116 - the same, over thousands of files
    except OSError:
        return f"{name}\0missing"
    return f"{name}\0{found.st_size} {found.st_mtime_ns} {found.st_mode}"


def _find(pixels: Path, index: Path, table: ImageTable, row_bytes: int) -> tuple[Skipped, list[str]] | None:
    """The skipped rows of a complete cache, and the digests of all files; None if there is no complete cache."""
    rows = len(table.labels)
    try:
        content = read_json(index)
        skipped = {int(row): (str(file), str(reason)) for row, file, reason in content["skipped"]}
        digits = str(content["contents"])
        complete = pixels.stat().st_size == (rows - len(skipped)) * row_bytes
    except (OSError, ValueError, KeyError, TypeError):
        return None
    expected = 0 if isinstance(table.images, np.ndarray) else rows * DIGITS
    if not complete or len(digits) != expected:
        return None
    return skipped, [digits[start : start + DIGITS] for start in range(0, expected, DIGITS)]


def _write(
    table: ImageTable,
    size: int,
    decode_one: Decode,
    pixels: Path,
    index: Path,
    on_bad_image: OnBadImage,
    progress: Callable[[int, int], None] | None,
) -> tuple[Skipped, list[str]]:
    """Decode all rows into `pixels`, then write `index`, which makes the cache valid."""
    needed = int(table.has_image.sum()) * size * size * table.channels
    try:
        pixels.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(pixels.parent)
        if shutil.disk_usage(pixels.parent).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with TemporaryDirectory(dir=pixels.parent, prefix=STAGING) as staging:
            new_pixels, new_index = Path(staging, pixels.name), Path(staging, index.name)
            with new_pixels.open("wb") as file:
                skipped, contents = _write_rows(file, table, size, decode_one, on_bad_image, progress)
            listed = [[row, *why] for row, why in skipped.items()]
            found = {"skipped": listed, "folder": _common_folder(table), "contents": "".join(contents)}
            write_json(new_index, found)
            new_pixels.replace(pixels)
            new_index.replace(index)
    except OSError as error:
        raise DataError(
            f"cannot write the image cache in {pixels.parent} ({needed:,} bytes needed): {error.strerror or error}; "
            "set data.cache_dir to a folder with room, or a smaller data.image_size"
        ) from error
    return skipped, contents


def _remove_leftovers(folder: Path) -> None:
    for staging in folder.glob(f"{STAGING}*"):
        if abandoned(staging):
            shutil.rmtree(staging, ignore_errors=True)


def abandoned(staging: Path) -> bool:
    """Whether a temporary folder or file has not changed for a day."""
    try:
        newest = max(path.stat().st_mtime for path in (staging, *staging.glob("*")))
    except OSError:  # the other process has just finished
        return False
    return time.time() - newest > A_DAY


def _common_folder(table: ImageTable) -> str | None:
    """The folder that contains all files; None if there are no files."""
    if isinstance(table.images, np.ndarray):
        return None
    folders = {file.parent for file in table.images if file is not None}
    return _printable(os.path.commonpath([folder.resolve() for folder in folders])) if folders else None


def _printable(path: str | Path) -> str:
    """A path as encodable text, even if its name is not UTF-8."""
    return os.fsencode(path).decode(errors="replace")


def _write_rows(
    file: BinaryIO,
    table: ImageTable,
    size: int,
    decode_one: Decode,
    on_bad_image: OnBadImage,
    progress: Callable[[int, int], None] | None,
) -> tuple[Skipped, list[str]]:
    """Append every decodable image to `file`, in order. A row without an image is a hole: it reads as zeros, and most
    file systems store nothing for it."""
    total, row_bytes = len(table.labels), size * size * table.channels
    skipped: Skipped = {}
    contents: list[str] = []
    for row, (content, image) in enumerate(_decoded(table, size, decode_one)):
        contents.append(content)
        if image is None:
            file.seek(row_bytes, os.SEEK_CUR)
        elif isinstance(image, str):
            skipped[row] = (_printable(str(table.images[row])), image)
            if on_bad_image == "fail":
                raise _bad_image(skipped)
        else:
            file.write(image.tobytes())
        if progress and ((row + 1) % CHUNK == 0 or row + 1 == total):
            progress(row + 1, total)
    file.truncate()  # to the end of a last row without an image
    if not total or (skipped and len(skipped) == table.has_image.sum()):
        file_name, reason = next(iter(skipped.values()), ("the source", "it is empty"))
        raise DataError(f"none of {len(skipped):,} images could be decoded; the first: {file_name}: {reason}")
    return skipped, contents


def _decoded(table: ImageTable, size: int, decode_one: Decode) -> Iterator[Decoded]:
    """Each row's square image, the reason for its absence, or None; a few threads decode at most one chunk ahead."""
    if isinstance(table.images, np.ndarray):
        for image in table.images:
            yield "", fit(image, size=size, channels=table.channels)
        return
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(table.images), CHUNK):
            yield from pool.map(decode_one, table.images[start : start + CHUNK])


def _read_or_reason(path: Path | None, size: int, channels: Literal[1, 3], max_pixels: int) -> Decoded:
    if path is None:
        return _NO_FILE, None
    content = digest_of(path)  # first, so that decoding finds the file in the page cache
    try:
        return content, read(path, size=size, channels=channels, max_pixels=max_pixels)
    except DataError as error:
        return content, str(error).removeprefix(f"{path}: ")


def _bad_image(skipped: Skipped) -> DataError:
    (file, reason), more = next(iter(skipped.values())), len(skipped) - 1
    others = f" (and {more:,} more)" if more else ""
    return DataError(f"{file}: {reason}{others}; mend or remove it, or set data.on_bad_image to skip")
