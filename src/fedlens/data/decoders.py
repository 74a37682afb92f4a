"""Decode the bytes of an image file to samples as stored: (H, W, 1 to 4) of any type, upright.

Two and four channels are grey and RGB with alpha. OpenCV decodes most formats; Pillow those that OpenCV lacks (ICO,
TGA, PSD …); TIFF has its own module, because both libraries misread some of its variants.
"""

from __future__ import annotations

import io
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from PIL import Image

Samples = NDArray[Any]

JPEG = b"\xff\xd8\xff"
REDUCTIONS = (8, 4, 2)
"""libjpeg's scale factors: it can decode at 1/8, 1/4 or 1/2 of the size."""

_PNG = b"\x89PNG\r\n\x1a\n"
_ORIENTATION = 0x0112
_REDUCED = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}
_FORMATS = (
    *("AVIF", "BMP", "DDS", "DIB", "GIF", "ICNS", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "PSD"),
    *("SGI", "TGA", "TIFF", "WEBP"),
)
"""Formats that Pillow may read. EPS is excluded: Pillow would start Ghostscript, which executes programs."""

_PILLOW_LIMIT = Lock()


def size_of(file: BinaryIO) -> tuple[int, int] | None:
    """(width, height) from the header alone; None if it is not an image's header."""
    start = file.read(24)
    file.seek(0)
    if start.startswith(_PNG) and len(start) == 24:  # most files are PNG; much faster than Pillow
        return int.from_bytes(start[16:20], "big"), int.from_bytes(start[20:24], "big")
    try:
        with pillow_image(file) as image:
            return image.size
    except Exception:  # Pillow's readers can raise any error on a damaged header
        return None
    finally:
        file.seek(0)


@contextmanager
def pillow_image(file: BinaryIO) -> Iterator[Image.Image]:
    """A Pillow image of which only the header has been read. The caller checks its size against the user's limit, so
    the library's own limit is disabled while opening."""
    from PIL import Image

    with _PILLOW_LIMIT:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            opened = Image.open(file, formats=_FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = before
    yield opened


def by_opencv(data: bytes, reduction: int = 1) -> Samples | None:
    """RGB(A) or grey; None if OpenCV cannot decode it. `reduction`: JPEG only, see `REDUCTIONS`."""
    flags = _REDUCED[reduction] | cv2.IMREAD_IGNORE_ORIENTATION if reduction > 1 else cv2.IMREAD_UNCHANGED
    try:
        image, kinds, chunks = cv2.imdecodeWithMetadata(np.frombuffer(data, np.uint8), flags=flags)
    except cv2.error:
        return None
    if image is None or image.size == 0:
        return None
    if image.ndim == 2:
        image = image[..., None]
    elif image.shape[2] >= 3:
        image = image[..., [2, 1, 0, 3][: image.shape[2]]]
    # OpenCV returns TIFF upright and without its EXIF block, all other formats as stored.
    exif = dict(zip(kinds, chunks, strict=True)).get(cv2.IMAGE_METADATA_EXIF)
    return image if exif is None else upright(image, _orientation_in(exif.tobytes()))


def by_pillow(data: bytes) -> Samples:
    """Decode the first frame.

    Raises:
        Exception: any error, because Pillow's readers do not wrap errors on damaged files.
    """
    with pillow_image(io.BytesIO(data)) as image:
        orientation = _orientation(image.getexif())
        pixels = np.asarray(in_a_plain_mode(image))
    return upright(pixels[..., None] if pixels.ndim == 2 else pixels, orientation)


def in_a_plain_mode(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        return image.convert("RGBA")
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("L", "RGB", "F") or image.mode.startswith("I"):
        return image
    return image.convert("RGB")


def _orientation_in(exif: bytes) -> int:
    from PIL import Image

    block = Image.Exif()
    try:
        block.load(exif)
        return _orientation(block)
    except Exception:  # a damaged EXIF block does not make the image unusable
        return 1


def _orientation(exif: Mapping[int, object]) -> int:
    """The orientation; 1 (upright) if the tag is not an integer from 1 to 8: some programs write bytes, texts or
    fractions."""
    value = exif.get(_ORIENTATION)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright(image: Samples, orientation: int) -> Samples:
    """Undo the camera's rotation and mirroring (EXIF 2.32, tag 0x0112, values 1 to 8)."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image
