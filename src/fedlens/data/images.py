"""Decode one image file to uint8 pixels.

All formats are converted in the same way:

- EXIF orientation is applied; palettes and CMYK become RGB; grey stays grey (one channel); only the first frame of an
animation is used, and no further bands of a TIFF (see `tiffs`). - Transparent pixels are composited on white. - Samples
that are not 8 bits (16-bit PNG and TIFF, float TIFF) are windowed per image: the 0.1st to the 99.9th
  percentile of all its colour samples is mapped linearly onto 0–255 and clipped. If both percentiles are equal, minimum
  and maximum are used instead. Values of different files are not comparable afterwards.
- A square of S pixels is the central square of the image, scaled: the aspect ratio is kept, the ends of the longer side
are cropped.
  Scaling uses INTER_AREA when it shrinks (no aliasing) and INTER_CUBIC when it enlarges.
- A file of more than `max_pixels` is refused before anything is decoded; a JPEG is decoded at a reduced size if that is
sufficient.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from fedlens.core.files import open_regular
from fedlens.data.decoders import JPEG, REDUCTIONS, Samples, by_opencv, by_pillow, in_a_plain_mode, size_of
from fedlens.data.quiet import quiet
from fedlens.data.tiffs import TIFF, read_tiff
from fedlens.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

Pixels = NDArray[np.uint8]

DECODING = 2
"""Version of decoding, part of the key of whatever is kept of images. Increase it when a file is decoded to other
pixels than before."""

MAX_PIXELS = 100_000_000
"""Default of `max_pixels`: 300 MB in RGB."""

MAX_FILE = 2**30
"""Maximum bytes of an image file."""

BYTES_A_PIXEL = 16
"""For all bands together: four of 32 bits. With `max_pixels` it bounds the memory for a TIFF with many bands."""


def read(path: Path, *, size: int, channels: Literal[1, 3], max_pixels: int = MAX_PIXELS) -> Pixels:
    """The image as a square: uint8 (size, size, channels), RGB or grey.

    Raises:
        DataError: as `decode`.
    """
    return fit(decode(path, for_size=size, max_pixels=max_pixels), size=size, channels=channels)


def fit(image: NDArray[np.uint8], *, size: int, channels: Literal[1, 3]) -> Pixels:
    """Scale and convert decoded pixels (H, W, 1 or 3) to (size, size, channels)."""
    return to_channels(resize(image, size), channels)


def decode(path: Path, *, for_size: int | None = None, max_pixels: int = MAX_PIXELS) -> Pixels:
    """The pixels of an image file: uint8 (H, W, 3) RGB or (H, W, 1) grey.

    A JPEG of more than `max_pixels` is decoded at a half, a quarter or an eighth of its size, in colour. With
    `for_size`, so is one whose shorter side is several times larger (but never below twice `for_size`): libjpeg decodes
    it two to three times faster.

    Raises:
        DataError: the file cannot be read, is not a regular file, is empty, too large or cannot be decoded:
            "<path>: <reason>".
    """
    try:
        with quiet(), open_regular(Path(path), MAX_FILE) as file:
            return _to_uint8_rgb(_samples(file, for_size, max_pixels))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except MemoryError as error:
        raise DataError(f"{path}: there is not enough memory to decode it") from error


def from_pillow(image: Image.Image) -> Pixels:
    """As `decode`, for an open Pillow image; the caller applies its EXIF orientation."""
    pixels = np.asarray(in_a_plain_mode(image))
    return _to_uint8_rgb(pixels[..., None] if pixels.ndim == 2 else pixels)


def pixel_size(path: Path) -> tuple[int, int] | None:
    """(width, height) from the header; None if it cannot be read."""
    try:
        with quiet(), open_regular(path) as file:
            return size_of(file)
    except OSError:
        return None


def at_most(side: int, path: Path) -> int:
    """`side`, or the shorter one of the picture's own if that is smaller: scaled up, it would show nothing more."""
    return min(side, *(pixel_size(path) or (side,)))


def _samples(file: BinaryIO, for_size: int | None, max_pixels: int) -> Samples:
    """Raises DataError, without the file's name."""
    size = size_of(file)
    data = file.read()
    if not data:
        raise DataError("the file is empty")
    if data.startswith(_LFS_POINTER):
        raise DataError("a git-lfs pointer in place of the image: `git lfs pull` fetches it")
    is_tiff = data.startswith(TIFF)
    if size is None and not is_tiff:
        raise DataError(_NO_IMAGE)
    reduction = _reduction(data, size, for_size, max_pixels) if size else 1
    try:
        if is_tiff:
            return read_tiff(data, max_pixels * BYTES_A_PIXEL)
        found = by_opencv(data, reduction)
        return by_pillow(data) if found is None else found
    except (DataError, MemoryError):
        raise
    except Exception as error:  # readers can raise any error on damaged files
        raise DataError(_NO_IMAGE) from error


_LFS_POINTER = b"version https://git-lfs.github.com/"
_NO_IMAGE = "not an image that OpenCV or Pillow can decode, or a damaged one"


def _reduction(data: bytes, size: tuple[int, int], for_size: int | None, max_pixels: int) -> int:
    """The reduction factor for decoding; more than 1 for JPEG only.

    Raises:
        DataError: the image has too many pixels even at the largest factor.
    """
    width, height = size
    possible = (*REDUCTIONS, 1) if data.startswith(JPEG) else (1,)
    small_enough = [factor for factor in possible if width * height <= max_pixels * factor**2]
    if not small_enough:
        raise DataError(
            f"{width:,} × {height:,} pixels are more than the limit of {max_pixels:,}; make it smaller, or raise "
            "data.max_pixels (predict: --max-pixels)"
        )
    enough_left = [factor for factor in small_enough if for_size and min(size) >= 2 * for_size * factor]
    return enough_left[0] if enough_left else small_enough[-1]


def resize(image: NDArray[np.uint8], size: int) -> Pixels:
    """The central square of `image` (H, W, C), scaled to (size, size, C)."""
    height, width, channels = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    if side == size:
        return square
    how = cv2.INTER_AREA if size < side else cv2.INTER_CUBIC
    scaled: Pixels = cv2.resize(np.ascontiguousarray(square), (size, size), interpolation=how)
    return scaled.reshape(size, size, channels)  # OpenCV drops the axis of a single channel


def to_channels(image: NDArray[np.uint8], channels: Literal[1, 3]) -> Pixels:
    """(H, W, 1 or 3) → (H, W, channels): grey is repeated, RGB is converted to luma (ITU-R BT.601)."""
    if image.shape[-1] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=2)
    grey: Pixels = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    return grey[..., None]


def _to_uint8_rgb(raw: NDArray[Any]) -> Pixels:
    """Window to 8 bits and composite on white: (H, W, 1 to 4) → uint8 (H, W, 1 or 3)."""
    transparent = raw.shape[2] in (2, 4)
    colour = raw[..., :-1] if transparent else raw
    pixels = np.ascontiguousarray(colour) if colour.dtype == np.uint8 else _window(colour)
    if not transparent:
        return pixels
    alpha = raw[..., -1:].astype(np.float32)
    alpha /= np.iinfo(raw.dtype).max if np.issubdtype(raw.dtype, np.integer) else 1.0
    return np.asarray(np.rint(pixels * alpha + 255 * (1 - alpha)), np.uint8)


def _window(samples: NDArray[Any]) -> Pixels:
    values = samples.astype(np.float32)
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        raise DataError("all of its samples are NaN or infinite")
    low, high = np.percentile(finite, (0.1, 99.9))
    if low == high:
        low, high = finite.min(), finite.max()
    scaled = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) * (255 / max(high - low, 1e-12))
    return np.asarray(np.rint(scaled.clip(0, 255)), np.uint8)
