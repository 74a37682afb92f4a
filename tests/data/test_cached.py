"""What the cache holds, as it is listed and removed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedlens.data.cache import A_DAY, Decoding, build_cache
from fedlens.data.cached import contents
from fedlens.data.types import ImageTable

KEY = "0123456789abcdef" * 2


def build(images: list[Path] | np.ndarray, cache: Path) -> Path:
    table = ImageTable(images, np.zeros(len(images), np.int64), ("thing",), channels=3)
    return build_cache(table, Decoding(8, cache_dir=cache)).file


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Two images in two class folders."""
    files = [tmp_path / "PHOTOS" / kind / "1.png" for kind in ("cat", "dog")]
    for file in files:
        file.parent.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(file)
    return files


def put(file: Path, days_ago: float = 0, size: int = 10) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"0" * size)
    then = time.time() - days_ago * A_DAY
    os.utime(file, (then, then))
    return file


def test_decoded_images_say_which_folder_they_are_of(photos, tmp_path):
    file = build(photos, tmp_path / "cache")
    (entry,) = contents(tmp_path / "cache")
    assert (entry.kind, entry.path, entry.size) == ("images", file, 2 * 8 * 8 * 3)
    assert entry.about == str(tmp_path / "PHOTOS")


def test_images_that_came_without_files_or_from_an_earlier_version_say_nothing(photos, tmp_path):
    build(np.zeros((2, 8, 8, 3), np.uint8), tmp_path / "arrays")
    build(photos, tmp_path / "earlier").with_suffix(".json").write_text('{"skipped": []}')
    assert [contents(tmp_path / name)[0].about for name in ("arrays", "earlier")] == ["", ""]


def test_the_last_used_comes_first_and_strangers_are_left_out(tmp_path):
    put(tmp_path / "features" / f"features-{KEY}.f32", days_ago=2)
    put(tmp_path / "features" / f"features-{KEY}.part", days_ago=3)
    put(tmp_path / "partitions" / f"{KEY}.npz", days_ago=1)
    put(tmp_path / "huggingface" / f"{KEY[:16]}-image" / "0000000")
    put(tmp_path / "images" / "holiday.jpg")
    put(tmp_path / "datasets" / "mine.csv")
    put(tmp_path / "notes.txt")
    found = contents(tmp_path)
    assert [(entry.kind, entry.about) for entry in found] == [
        ("huggingface", ""), ("partitions", ""), ("features", ""), ("features", "unfinished"),
    ]  # fmt: skip
    for entry in found:
        entry.remove()
    left = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["holiday.jpg", "mine.csv", "notes.txt"]


def test_reading_a_download_is_a_use(tmp_path):
    file = put(tmp_path / "datasets" / "FashionMNIST" / "raw" / "images", days_ago=9)
    os.utime(file.parents[1], (0, 0))
    read = time.time() - A_DAY
    os.utime(file, (read, 0))
    (entry,) = contents(tmp_path)
    assert entry.used == pytest.approx(read, abs=1e-3)


def test_what_is_being_built_is_left_out_until_a_day_has_passed(tmp_path):
    for name, days in (("now", 0.5), ("then", 2)):
        staging = put(tmp_path / "images" / f".building-{name}" / "x.u8", days_ago=days).parent
        os.utime(staging, (0, 0))
    put(tmp_path / "features" / f"features-{KEY}.part", days_ago=0.5)
    (entry,) = contents(tmp_path)
    assert (entry.path.name, entry.about) == (".building-then", "unfinished")


def test_images_are_removed_with_their_index(photos, tmp_path):
    file = build(photos, tmp_path / "cache")
    (entry,) = contents(tmp_path / "cache")
    entry.remove()
    entry.remove()  # gone already
    assert list(file.parent.iterdir()) == []
    assert build(photos, tmp_path / "cache") == file
