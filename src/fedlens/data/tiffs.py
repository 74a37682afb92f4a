"""Decode TIFF to samples as stored: any number of bands, any sample type, interleaved or plane by plane.

OpenCV and Pillow each misread some variants (two bands, 16-bit planes) without an error. So tifffile reads the tags
and, if it can, the samples; samples decoded by another library are compared with the tags. A band is alpha only if the
file declares it: an undeclared fourth band may be infrared. Of the other bands, the first three are red, green and
blue; if there are fewer than three, the first is grey.
"""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np

from fedlens.data.decoders import Samples, by_opencv, by_pillow, upright
from fedlens.errors import DataError

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of TIFF files; + is BigTIFF."""

_WHITE_IS_0, _BLACK_IS_0, _RGB = 0, 1, 2
_ASSOCIATED, _UNASSOCIATED = 1, 2
_DEFLATE = (8, 32946)

Page = Any
"""A tifffile.TiffPage."""


def read_tiff(data: bytes, most_bytes: int) -> Samples:
    """The first page: (H, W, 1 to 4), upright, colours not multiplied by alpha.

    Raises:
        DataError: the variant is not supported, or its samples take more than `most_bytes`.
        Exception: any error, because the libraries do not wrap errors on damaged files.
    """
    from tifffile import TiffFile

    with TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        if page.nbytes > most_bytes:
            raise DataError(f"its samples take {page.nbytes:,} bytes, and at most {most_bytes:,} are decoded")
        plain = page.photometric in (_WHITE_IS_0, _BLACK_IS_0, _RGB) and page.dtype is not None and _bits(page) >= 8
        if not plain:  # palettes, CMYK, YCbCr, Lab, fewer than eight bits
            return by_pillow(data)
        samples = _by_tifffile(page)
        if samples is None:
            return _by_others(data, page)
        orientation = page.tags.valueof(274, 1)
        return upright(_bands(samples, page), orientation if orientation in range(1, 9) else 1)


def _bits(page: Page) -> int:
    bits = page.bitspersample
    return int(min(bits) if isinstance(bits, tuple) else bits)


def _by_tifffile(page: Page) -> Samples | None:
    """(H, W, bands); None if tifffile lacks the compression."""
    if page.compression in _DEFLATE:
        _refuse_bombs(page)
    try:
        samples = page.asarray()
    except ValueError as error:
        if "imagecodecs" in str(error):
            return None
        raise
    separate, depth, height, width, together = page.shaped
    planes: Samples = samples.reshape(separate, depth, height, width, together)[:, 0]
    return np.moveaxis(planes, 0, -1).reshape(height, width, separate * together)


def _refuse_bombs(page: Page) -> None:
    """Refuse strips that would decompress to too much: tifffile itself has no limit."""
    for strip, _ in page.parent.filehandle.read_segments(page.dataoffsets, page.databytecounts):
        inflater = zlib.decompressobj()
        inflater.decompress(strip or b"", page.nbytes + 1)
        if inflater.unconsumed_tail:
            raise DataError("a strip inflates to more bytes than the whole picture has")


def _bands(samples: Samples, page: Page) -> Samples:
    """Grey or RGB, with alpha if there is one; white is the largest value."""
    kind, bands = _alpha(page), samples.shape[2]
    colour = samples[..., : 3 if bands - (kind is not None) >= 3 else 1]
    if page.photometric == _WHITE_IS_0:
        colour = np.invert(colour) if np.issubdtype(colour.dtype, np.integer) else -colour
    if kind is None:
        return colour
    alpha = samples[..., bands - len(page.extrasamples) + page.extrasamples.index(kind)][..., None]
    return np.concatenate([_divided(colour, alpha) if kind == _ASSOCIATED else colour, alpha], axis=2)


def _alpha(page: Page) -> int | None:
    """The kind of the alpha band."""
    return next((int(kind) for kind in page.extrasamples if kind in (_ASSOCIATED, _UNASSOCIATED)), None)


def _divided(colour: Samples, alpha: Samples) -> Samples:
    """Colours divided by alpha, which undoes premultiplication; 0 where alpha is 0."""
    whole = np.iinfo(alpha.dtype).max if np.issubdtype(alpha.dtype, np.integer) else 1.0
    share = alpha.astype(np.float64) / whole
    clear = np.divide(colour, share, out=np.zeros(colour.shape, np.float64), where=share > 0)
    return (np.rint(clear.clip(0, whole)) if whole != 1.0 else clear).astype(colour.dtype)


def _by_others(data: bytes, page: Page) -> Samples:
    """Decode with OpenCV or Pillow, if the result agrees with the tags.

    Raises:
        DataError: neither supports this variant.
    """
    one_byte, bands = page.dtype.itemsize == 1, page.samplesperpixel
    multiplied = one_byte and _alpha(page)  # OpenCV premultiplies by alpha
    if page.photometric != _WHITE_IS_0 and not multiplied and (one_byte or page.planarconfig == 1):
        samples = by_opencv(data)
        if samples is not None and samples.dtype == page.dtype and samples.shape[2] == bands:
            return _bands(samples, page)
    if page.dtype == np.uint8 and (bands < 3 or page.photometric == _RGB):
        return by_pillow(data)
    kind = f"{bands} bands of type {page.dtype}" if bands > 1 else f"type {page.dtype}"
    raise DataError(f"a TIFF of {kind} with {page.compression.name} compression cannot be read; save it with Deflate")
