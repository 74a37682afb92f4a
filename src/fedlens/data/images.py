"""One image file → uint8 pixels, by OpenCV; Pillow reads the few formats that OpenCV lacks (ICO, TGA, PSD …).

Every file ends the same way, whatever it was:

- EXIF orientation is applied; palettes and CMYK become RGB; grey stays grey (one channel).
- Transparent pixels are composited on white.
- Samples that are not 8 bits (16-bit PNG and TIFF, float TIFF) are windowed per image: the 0.1st to the 99.9th
  percentile of all its colour samples is mapped linearly onto 0–255 and clipped. Where both percentiles are one
  value, the minimum and the maximum are taken instead. Values of different files are not comparable afterwards.
- A square of S pixels is the central square of the image, scaled: proportions stay, the ends of the longer side go.
  Scaling uses INTER_AREA when it shrinks (no aliasing) and INTER_CUBIC when it enlarges.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from fedlens.errors import DataError

Pixels = NDArray[np.uint8]

_JPEG = b"\xff\xd8\xff"
_TIFF = (b"II*\0", b"MM\0*")
_ORIENTATION = 0x0112
_REDUCED = {
    8: cv2.IMREAD_REDUCED_COLOR_8 | cv2.IMREAD_IGNORE_ORIENTATION,
    4: cv2.IMREAD_REDUCED_COLOR_4 | cv2.IMREAD_IGNORE_ORIENTATION,
    2: cv2.IMREAD_REDUCED_COLOR_2 | cv2.IMREAD_IGNORE_ORIENTATION,
}

# A damaged file is reported by whoever reads it; OpenCV's own lines would only break the progress display.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)


def read(path: Path, *, size: int, channels: Literal[1, 3]) -> Pixels:
    """The image as a square: uint8 (size, size, channels), RGB or grey.

    Raises:
        DataError: as `decode`.
    """
    return fit(decode(path, for_size=size), size=size, channels=channels)


def fit(image: NDArray[np.uint8], *, size: int, channels: Literal[1, 3]) -> Pixels:
    """Scale and convert decoded pixels (H, W, 1 or 3) to (size, size, channels)."""
    return to_channels(resize(image, size), channels)


def decode(path: Path, *, for_size: int | None = None) -> Pixels:
    """The pixels of an image file: uint8 (H, W, 3) RGB or (H, W, 1) grey.

    With `for_size`, a JPEG whose shorter side is several times that many pixels may come at a half, a quarter or
    an eighth of its size, in colour (never below twice `for_size`): libjpeg decodes that two to three times faster.

    Raises:
        DataError: the file cannot be read, is empty or cannot be decoded: "<path>: <reason>".
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    if not data:
        raise DataError(f"{path}: the file is empty")
    raw = _opencv(data, for_size)
    if raw is None:
        try:
            raw = _pillow(data)
        except Exception as error:  # Pillow's readers raise whatever a damaged header leads them to
            raise DataError(f"{path}: not an image that OpenCV or Pillow can decode, or a damaged one") from error
    return _to_uint8_rgb(raw)


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
    """(H, W, 1 or 3) → (H, W, channels): grey is repeated, RGB is weighted to luma (ITU-R BT.601)."""
    if image.shape[-1] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=2)
    grey: Pixels = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    return grey[..., None]


def _opencv(data: bytes, for_size: int | None) -> NDArray[Any] | None:
    """(H, W, 1, 3 or 4) of any sample type, RGB(A), upright; None when OpenCV cannot decode it."""
    buffer = np.frombuffer(data, np.uint8)
    flags = cv2.IMREAD_UNCHANGED
    if for_size is not None and data.startswith(_JPEG):
        flags = _REDUCED.get(_reduction(data, for_size), flags)
    try:
        image, kinds, chunks = cv2.imdecodeWithMetadata(buffer, flags=flags)
    except cv2.error:
        return None
    if image is None or image.size == 0:
        return None
    if data.startswith(_TIFF) and image.dtype == np.uint8 and image.shape[2:] == (4,):
        return None  # OpenCV multiplies a TIFF's colours by alpha, Pillow gives them as they are
    if image.ndim == 2:
        image = image[..., None]
    elif image.shape[2] >= 3:
        image = image[..., [2, 1, 0, 3][: image.shape[2]]]
    # TIFF comes upright from OpenCV and without its EXIF block; all the others come as stored.
    exif = dict(zip(kinds, chunks, strict=True)).get(cv2.IMAGE_METADATA_EXIF)
    return image if exif is None else _upright(image, _orientation(exif.tobytes()))


def _reduction(data: bytes, for_size: int) -> int:
    """How many times smaller a JPEG may be decoded so that its shorter side keeps 2 × for_size pixels."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as header:
            shorter = min(header.size)
    except Exception:  # a header that Pillow dislikes may still be one that OpenCV reads
        return 1
    return next((factor for factor in _REDUCED if shorter >= 2 * for_size * factor), 1)


def _orientation(exif: bytes) -> int:
    from PIL import Image

    block = Image.Exif()
    try:
        block.load(exif)
    except Exception:  # a damaged EXIF block does not make the picture unusable
        return 1
    return int(block.get(_ORIENTATION, 1))


def _upright(image: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Undo the camera's rotation and mirroring (EXIF 2.32, tag 0x0112, values 1 to 8)."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image


def _pillow(data: bytes) -> NDArray[Any]:
    """As `_opencv`, for the formats that only Pillow reads."""
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(data)) as file:
        image: Image.Image = ImageOps.exif_transpose(file)
    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode in ("1", "LA"):
        image = image.convert("L")
    elif image.mode not in ("L", "RGB", "F") and not image.mode.startswith("I"):
        image = image.convert("RGB")
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _to_uint8_rgb(raw: NDArray[Any]) -> Pixels:
    """Window to 8 bits and composite on white: (H, W, 1, 3 or 4) → uint8 (H, W, 1 or 3)."""
    colour = raw[..., :3]
    pixels = np.ascontiguousarray(colour) if colour.dtype == np.uint8 else _window(colour)
    if raw.shape[2] < 4:
        return pixels
    alpha = raw[..., 3:].astype(np.float32)
    alpha /= np.iinfo(raw.dtype).max if np.issubdtype(raw.dtype, np.integer) else 1.0
    return np.asarray(np.rint(pixels * alpha + 255 * (1 - alpha)), np.uint8)


def _window(samples: NDArray[Any]) -> Pixels:
    values = samples.astype(np.float32)
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return np.zeros(samples.shape, np.uint8)
    low, high = np.percentile(finite, (0.1, 99.9))
    if low == high:
        low, high = finite.min(), finite.max()
    scaled = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) * (255 / max(high - low, 1e-12))
    return np.asarray(np.rint(scaled.clip(0, 255)), np.uint8)
