"""Which test images a report shows, and how much room they take."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedlens.core.files import read_json
from fedlens.tracking import pictures
from fedlens.tracking.pictures import choose, save_pictures, thumbnail


def kept(path: Path, truth: list[int], predicted: list[int], confidence: list[float], side: int = 8) -> Any:
    """Image k of the test set is row 2 k of all images, and all its pixels are k."""
    count = len(truth)
    images = np.repeat(np.arange(count, dtype=np.uint8), 2)[:, None, None, None] * np.ones((1, side, side, 1), np.uint8)
    sure, rows = np.array(confidence, np.float32), np.arange(0, 2 * count, 2)
    save_pictures(path, images, rows, np.array(truth), np.array(predicted), sure, ["cat", "dog", "bird"])
    return read_json(path)


def pixel(picture: dict[str, Any]) -> int:
    decoded = Image.open(io.BytesIO(base64.b64decode(picture["image"].partition(",")[2])))
    return int(np.asarray(decoded)[0, 0])


def test_the_surest_mistakes_and_the_unsurest_hits_come_first(tmp_path: Path) -> None:
    found = kept(tmp_path / "p.json", [0, 0, 0, 1, 1], [0, 1, 1, 1, 0], [0.9, 0.6, 0.8, 0.5, 0.7])
    rows = [pixel(picture) for picture in found["pictures"]]
    assert [rows[number] for number in found["mistakes"]] == [2, 4, 1]  # 0.8, 0.7, 0.6
    assert [rows[number] for number in found["hits"]] == [3, 0]  # 0.5, 0.9
    cells = {(cell["true"], cell["predicted"]): [rows[number] for number in cell["numbers"]] for cell in found["cells"]}
    assert cells == {("cat", "dog"): [2, 1], ("dog", "cat"): [4], ("cat", "cat"): [0], ("dog", "dog"): [3]}
    surest = found["pictures"][found["mistakes"][0]]
    assert (surest["true"], surest["predicted"], surest["confidence"]) == ("cat", "dog", 0.8)
    assert len(rows) == found["tested"] == 5  # each is kept once


def test_a_cell_keeps_its_surest_few() -> None:
    _, hits, cells = choose(np.zeros(50, int), np.zeros(50, int), np.linspace(0, 1, 50, dtype=np.float32))
    assert hits == list(range(pictures.GALLERY))
    assert cells == {(0, 0): list(range(49, 49 - pictures.OF_A_CELL, -1))}


def test_room_is_bounded_and_each_cell_has_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "GALLERY", 0)
    one = len(thumbnail(np.zeros((8, 8, 1), np.uint8)))
    monkeypatch.setattr(pictures, "MOST_BYTES", 2 * one + 20)  # pictures of one grey differ by a few bytes
    found = kept(tmp_path / "p.json", [0] * 6 + [1], [1] * 6 + [0], [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3])
    assert [cell["numbers"] for cell in found["cells"]] == [[0], [1]]  # one of each, not two of the first


@pytest.mark.parametrize(("side", "form", "size"), [(28, "PNG", 28), (224, "JPEG", 96)])
@pytest.mark.parametrize("channels", [1, 3])
def test_thumbnails_are_small(side: int, form: str, size: int, channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (side, side, channels), np.uint8)
    decoded = Image.open(io.BytesIO(base64.b64decode(thumbnail(image).partition(",")[2])))
    assert (decoded.format, decoded.size) == (form, (size, size))
    assert decoded.mode == ("L" if channels == 1 else "RGB")
