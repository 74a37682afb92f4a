"""Folders of photographs that are easy to tell apart, and cheap to train on."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

CLASSES = ("cup", "fork", "plate")


def photo(path: Path, kind: int, seed: int, size: int = 28) -> None:
    """Noise, brightest in the colour channel `kind`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([seed, kind]).integers(0, 80, (size, size, 3), np.uint8)
    pixels[:, :, kind] += 150
    assert cv2.imwrite(str(path), pixels)


def photos(folder: Path, each: int = 10, classes: tuple[str, ...] = CLASSES, seed: int = 0) -> Path:
    """`folder`/<class>/<number>.png, `each` of every class."""
    for kind, name in enumerate(classes):
        for number in range(each):
            photo(folder / name / f"{number}.png", kind, seed + number)
    return folder
