"""pictures.json: the test images on which the final model is most and least confident, and examples of each kind of
error."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlens.core.files import write_json

GALLERY = 12
"""Number of most confident errors, and of least confident correct predictions."""
OF_A_CELL = 8
MOST_PICTURES = 300
MOST_BYTES = 2_000_000
"""Maximum bytes of all images in the file; as many as fit are written."""
SIDE = 96
"""Thumbnail side in pixels."""
_SMALL = 48
"""Up to this side, PNG is no larger than JPEG and is lossless."""


def save_pictures(
    path: Path,
    images: NDArray[np.uint8],
    rows: NDArray[np.int64],
    truth: NDArray[np.int64],
    predicted: NDArray[np.int64],
    confidence: NDArray[np.float32],
    names: Sequence[str],
) -> None:
    """Select among N test images, and write thumbnails of them.

    images       (…, S, S, C), C = 1 or 3, of which only the selected ones are read
    rows         (N,) rows of the test images in `images`
    confidence   (N,) the probability of the predicted class
    names        of every class that occurs in `truth` and `predicted`
    """
    mistakes, hits, cells = choose(truth, predicted, confidence)
    numbers: dict[int, int] = {}
    pictures: list[dict[str, Any]] = []
    room = MOST_BYTES
    for row in dict.fromkeys([*mistakes, *hits, *in_turn(list(cells.values()))]):
        image = thumbnail(images[rows[row]])
        room -= len(image)
        if room < 0 or len(pictures) == MOST_PICTURES:
            break
        numbers[row] = len(pictures)
        sure = round(float(confidence[row]), 4)
        told = {"true": names[truth[row]], "predicted": names[predicted[row]], "confidence": sure}
        pictures.append({"image": image, **told})
    kept = {cell: [numbers[row] for row in found if row in numbers] for cell, found in cells.items()}
    write_json(
        path,
        {
            "tested": len(truth),
            "pictures": pictures,
            "mistakes": [numbers[row] for row in mistakes if row in numbers],
            "hits": [numbers[row] for row in hits if row in numbers],
            "cells": [
                {"true": names[true], "predicted": names[guess], "numbers": found}
                for (true, guess), found in kept.items()
                if found
            ],
        },
    )


def choose(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], confidence: NDArray[np.float32]
) -> tuple[list[int], list[int], dict[tuple[int, int], list[int]]]:
    """Indices from 0 to N − 1: the most confident errors, the least confident correct predictions, and the most
    confident of each occurring pair (true, predicted). Pairs that are errors come first."""
    surest = np.argsort(-confidence, kind="stable")
    wrong = [row for row in surest.tolist() if truth[row] != predicted[row]]
    right = [row for row in surest.tolist() if truth[row] == predicted[row]]
    cells: dict[tuple[int, int], list[int]] = {}
    for row in (*wrong, *right):
        cell = cells.setdefault((int(truth[row]), int(predicted[row])), [])
        if len(cell) < OF_A_CELL:
            cell.append(row)
    return wrong[:GALLERY], right[::-1][:GALLERY], cells


def in_turn(cells: Sequence[Sequence[int]]) -> Iterator[int]:
    """The first row of every cell, then the second of every cell: if not all fit, each cell has some."""
    for rows in zip_longest(*cells):
        yield from (row for row in rows if row is not None)


def thumbnail(image: NDArray[np.uint8], side: int = SIDE) -> str:
    """`image` (S, S, C) as a data URI, at most `side` pixels per side."""
    from PIL import Image

    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    picture.thumbnail((side, side))
    form = "PNG" if max(image.shape[:2]) <= _SMALL else "JPEG"
    file = io.BytesIO()
    picture.save(file, form, **({"quality": 80} if form == "JPEG" else {}))
    return f"data:image/{form.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
