"""A map of where a model sees a class, drawn over a picture."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedlens.core.files import write_atomic

SIDE = 320
"""Side, in pixels, of a picture in `write_pair`."""

_EMBEDDED = 28
"""Side of an embedded overlay; browsers scale it up smoothly."""
_MOST = 0.75
"""Opacity where the map is 1."""


def embedded(places: NDArray[np.float32]) -> str:
    """`places` (h, w), 0 to 1, as a data URI: transparent where it is 0."""
    file = io.BytesIO()
    _coloured(places, _EMBEDDED).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def write_pair(path: Path, view: NDArray[np.uint8], places: NDArray[np.float32]) -> None:
    """A PNG of the picture `view`, uint8 (S, S, 3), and beside it the same under the map.

    Raises:
        OSError: it cannot be written.
    """
    picture = Image.fromarray(view).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    both = Image.new("RGB", (2 * SIDE, SIDE))
    both.paste(picture, (0, 0))
    both.paste(Image.alpha_composite(picture.convert("RGBA"), _coloured(places, SIDE)).convert("RGB"), (SIDE, 0))
    file = io.BytesIO()
    both.save(file, "PNG")
    write_atomic(path, file.getvalue())


def _coloured(places: NDArray[np.float32], side: int) -> Image.Image:
    """RGBA: from transparent by yellow to red."""
    scaled = Image.fromarray(places).resize((side, side), Image.Resampling.BICUBIC)
    values = np.asarray(scaled).clip(0, 1)
    red, blue = np.full_like(values, 255), np.zeros_like(values)
    bands = np.stack([red, 230 * (1 - values), blue, 255 * _MOST * values], axis=-1)
    return Image.fromarray(bands.round().astype(np.uint8))
