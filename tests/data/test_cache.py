"""The cache of decoded images: found again cheaply, rebuilt when anything changed, never half there."""

from __future__ import annotations

import os
import resource
import shutil
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedlens.core.files import read_json
from fedlens.data import cache
from fedlens.data.cache import CachedImages, Decoding, build_cache, cache_name
from fedlens.data.cache_dir import default_cache_dir
from fedlens.data.images import read
from fedlens.data.types import ImageTable
from fedlens.errors import DataError


@pytest.fixture
def photos(tmp_path) -> list[Path]:
    """Five readable images of different sizes."""
    rng = np.random.default_rng(0)
    files = [tmp_path / f"{number}.png" for number in range(5)]
    for number, file in enumerate(files):
        Image.fromarray(rng.integers(0, 255, (20 + number, 30, 3), np.uint8)).save(file)
    return files


def table_of(images, channels=3) -> ImageTable:
    return ImageTable(images, np.zeros(len(images), np.int64), ("thing",), channels=channels)


def build(images, folder: Path, *, size=8, channels=3, on_bad_image="skip", progress=None) -> CachedImages:
    table = table_of(images, channels)
    return build_cache(table, Decoding(size, on_bad_image, cache_dir=folder), progress)


def no_decoding(monkeypatch) -> None:
    def fail(*_args, **_kwargs):
        raise AssertionError("decoded again")

    monkeypatch.setattr(cache, "read", fail)


@pytest.mark.parametrize("channels", [1, 3])
def test_holds_what_read_gives_in_order(photos, tmp_path, channels):
    cached = build(photos, tmp_path / "cache", channels=channels)

    expected = np.stack([read(photo, size=8, channels=channels) for photo in photos])
    assert cached.images.dtype == torch.uint8
    assert np.array_equal(cached.images.numpy(), expected)
    assert cached.kept.tolist() == [0, 1, 2, 3, 4]
    assert (cached.report.read, cached.report.skipped) == (5, ())


def test_second_run_decodes_nothing(photos, tmp_path, monkeypatch):
    first = build(photos, tmp_path / "cache")
    no_decoding(monkeypatch)

    again = build(photos, tmp_path / "cache")

    assert again.key == first.key
    assert torch.equal(again.images, first.images)


def test_chunks_join_seamlessly(photos, tmp_path, monkeypatch):
    whole = build(photos, tmp_path / "whole")
    monkeypatch.setattr(cache, "CHUNK", 2)

    assert torch.equal(build(photos, tmp_path / "chunked").images, whole.images)


def test_key_follows_files_order_size_and_channels(photos):
    keys = {cache_name(table_of(photos), 8), cache_name(table_of(photos), 9), cache_name(table_of(photos, 1), 8)}
    keys |= {cache_name(table_of(photos[::-1]), 8), cache_name(table_of(photos[:4]), 8)}
    os.utime(photos[2], ns=(0, 123))
    keys |= {cache_name(table_of(photos), 8)}
    photos[2].chmod(0o400)  # a file made readable must get its second chance
    keys |= {cache_name(table_of(photos), 8)}

    assert len(keys) == 7


def test_arrays_are_keyed_by_content_and_resized(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (3, 16, 16, 1), np.uint8)

    native, small = build(images, tmp_path, size=16, channels=1), build(images, tmp_path, size=8, channels=3)

    assert np.array_equal(native.images.numpy(), images)
    assert small.images.shape == (3, 8, 8, 3)
    block = images[0, :2, :2].astype(int).sum() / 4
    assert abs(int(small.images[0, 0, 0, 0]) - block) <= 0.5
    assert small.key == native.key  # the same images
    assert small.file != native.file
    assert build(images ^ 1, tmp_path, size=16, channels=1).key != native.key


def test_bad_images_are_skipped_counted_and_remembered(photos, tmp_path, monkeypatch):
    photos[1].write_text("no image")
    photos[3].write_bytes(b"")
    first = build(photos, tmp_path / "cache")
    no_decoding(monkeypatch)

    for cached in (first, build(photos, tmp_path / "cache")):
        assert cached.kept.tolist() == [0, 2, 4]
        assert cached.images.shape == (3, 8, 8, 3)
        assert cached.report.read == 3
        assert [file for file, _ in cached.report.skipped] == [str(photos[1]), str(photos[3])]
        assert cached.report.skipped[1][1] == "the file is empty"


def test_mended_image_is_read(photos, tmp_path):
    good = photos[1].read_bytes()
    photos[1].write_text("no image")
    build(photos, tmp_path / "cache")
    photos[1].write_bytes(good)

    assert build(photos, tmp_path / "cache").kept.tolist() == [0, 1, 2, 3, 4]


def test_fail_names_the_file_before_and_after_caching(photos, tmp_path):
    photos[1].write_text("no image")

    for _ in range(2):
        with pytest.raises(DataError, match=r"1\.png: not an image .* data\.on_bad_image to skip"):
            build(photos, tmp_path / "cache", on_bad_image="fail")
        build(photos, tmp_path / "cache")


def test_nothing_decodable(photos, tmp_path):
    for photo in photos:
        photo.write_text("no image")

    with pytest.raises(DataError, match=r"none of 5 images could be decoded; the first: .*0\.png: not an image"):
        build(photos, tmp_path / "cache")
    assert list((tmp_path / "cache" / "images").iterdir()) == []


def test_progress_ends_with_all(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "CHUNK", 2)
    calls: list[tuple[int, int]] = []

    build(photos, tmp_path / "cache", progress=lambda done, total: calls.append((done, total)))

    assert calls == [(2, 5), (4, 5), (5, 5)]


def test_no_room_says_how_much_and_where_else(photos, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(1000, 41, 959))

    with pytest.raises(DataError, match=r"960 bytes needed\): No space left on device; set data\.cache_dir"):
        build(photos, tmp_path / "cache")  # 5 × 8 × 8 × 3 = 960


def test_disk_that_fills_while_writing_leaves_nothing(photos, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))  # the kernel refuses files beyond 500 bytes
    try:
        with pytest.raises(DataError, match=r"960 bytes needed\): File too large; set data\.cache_dir"):
            build(photos, tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert list((tmp_path / "cache" / "images").iterdir()) == []
    assert len(build(photos, tmp_path / "cache").kept) == 5


def test_cache_folder_that_is_a_file(photos, tmp_path):
    (tmp_path / "cache").write_text("")

    with pytest.raises(DataError, match=r"cannot write the image cache in .*data\.cache_dir"):
        build(photos, tmp_path / "cache")


@pytest.mark.parametrize("damage", ["cut pixels", "no index", "cut index"])
def test_incomplete_cache_is_built_anew(photos, tmp_path, damage):
    first = build(photos, tmp_path / "cache")
    expected = first.images.clone()
    index = first.file.with_suffix(".json")
    if damage == "cut pixels":
        shutil.copy(first.file, tmp_path / "copy")  # the mapped file itself must stay whole
        first.file.unlink()
        first.file.write_bytes((tmp_path / "copy").read_bytes()[:-1])
    elif damage == "no index":
        index.unlink()
    else:
        index.write_text(index.read_text()[:5])

    assert torch.equal(build(photos, tmp_path / "cache").images, expected)


def test_writing_to_the_tensor_leaves_the_file_alone(photos, tmp_path):
    cached = build(photos, tmp_path / "cache")
    before = cached.file.read_bytes()

    cached.images.zero_()

    assert cached.file.read_bytes() == before


def test_builders_at_once_agree(photos, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        built = list(pool.map(lambda _: build(photos, tmp_path / "cache"), range(4)))

    assert all(torch.equal(cached.images, built[0].images) for cached in built)
    assert sorted(file.suffix for file in (tmp_path / "cache" / "images").iterdir()) == [".json", ".u8"]


def test_a_hit_is_marked_as_use(photos, tmp_path):
    file = build(photos, tmp_path / "cache").file
    os.utime(file, (0, 0))

    build(photos, tmp_path / "cache")

    assert time.time() - file.stat().st_mtime < 60


def test_what_killed_runs_left_is_removed_after_a_day(photos, tmp_path):
    folder = tmp_path / "cache" / "images"
    for name, age in (("old", 90_000), ("young", 80_000), ("old but written to", 90_000)):
        staging = folder / f".building-{name}"
        staging.mkdir(parents=True)
        (staging / "some.u8").write_bytes(b"1")
        then = time.time() - age
        if "written" not in name:
            os.utime(staging / "some.u8", (then, then))
        os.utime(staging, (then, then))

    build(photos, tmp_path / "cache")

    assert sorted(path.name for path in folder.glob(".*")) == [".building-old but written to", ".building-young"]


def test_a_folder_whose_name_is_no_utf_8_is_cached(photos, tmp_path):
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    odd.mkdir()
    for photo in photos:
        photo.rename(odd / photo.name)
    (odd / "1.png").write_bytes(b"")

    cached = build([odd / photo.name for photo in photos], tmp_path / "cache")

    assert cached.kept.tolist() == [0, 2, 3, 4]
    assert cached.report.skipped == ((f"{tmp_path}/\ufffd/1.png", "the file is empty"),)


def test_default_folder(monkeypatch):
    monkeypatch.delenv("FEDLENS_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_cache_dir() == Path.home() / ".cache" / "fedlens"
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache_dir() == Path("/somewhere/fedlens")
    monkeypatch.setenv("FEDLENS_CACHE", "/else")
    assert default_cache_dir() == Path("/else")


def test_a_file_of_a_terabyte_is_left_out_unread(tmp_path):
    (tmp_path / "1.png").touch()
    os.truncate(tmp_path / "1.png", 10**12)  # sparse: it takes no room on the disk
    Image.new("RGB", (8, 8)).save(tmp_path / "2.png")

    cached = build([tmp_path / "1.png", tmp_path / "2.png"], tmp_path / "cache")

    assert cached.kept.tolist() == [1]
    assert "bytes long, and at most 1,073,741,824 are read" in cached.report.skipped[0][1]


def test_rows_without_an_image_are_black_and_cost_nothing(photos, tmp_path, monkeypatch):
    images = [None, photos[0], None, photos[1], None]
    seen = []
    first = build(images, tmp_path / "cache", progress=lambda done, total: seen.append((done, total)))
    no_decoding(monkeypatch)

    for cached in (first, build(images, tmp_path / "cache")):
        assert cached.kept.tolist() == [0, 1, 2, 3, 4]
        assert cached.images.shape == (5, 8, 8, 3)
        assert [bool(image.any()) for image in cached.images] == [False, True, False, True, False]
        assert np.array_equal(cached.images[3].numpy(), read(photos[1], size=8, channels=3))
        assert (cached.report.read, cached.report.skipped) == (2, ())
        assert [len(content) for content in cached.contents] == [0, 16, 0, 16, 0]
        assert cached.files == tuple(images)
        assert cached.key == first.key
    assert seen == [(5, 5)]


def test_the_keys_follow_which_rows_have_no_image(photos, tmp_path):
    tables = [
        photos[:2],
        [*photos[:2], None],
        [None, *photos[:2]],
        [photos[0], None, photos[1]],
        [*photos[:2], None, None],
    ]
    assert len({build(images, tmp_path).key for images in tables}) == 5
    assert len({cache_name(table_of(images), 8) for images in tables}) == 5


@pytest.mark.parametrize("size", [1, 8])
def test_a_table_without_any_image(tmp_path, monkeypatch, size):
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: namedtuple("Usage", "free")(0))  # none is needed
    first = build([None] * 3, tmp_path, size=size, channels=1)
    for cached in (first, build([None] * 3, tmp_path, size=size, channels=1)):
        assert cached.images.shape == (3, size, size, 1)
        assert not cached.images.any()
        assert (cached.report.read, cached.contents, cached.key) == (0, ("", "", ""), first.key)
        assert read_json(cached.file.with_suffix(".json"))["folder"] is None
    assert build([None] * 2, tmp_path, size=size, channels=1).key != first.key


def test_texts_beside_images_do_not_hide_that_no_image_can_be_decoded(photos, tmp_path):
    photos[1].write_text("no image")
    with pytest.raises(DataError, match="none of 1 images could be decoded"):
        build([None, photos[1]], tmp_path / "cache")
    mixed = build([None, *photos[:2]], tmp_path / "cache")
    assert (mixed.kept.tolist(), mixed.report.read) == ([0, 1], 1)
