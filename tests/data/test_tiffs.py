"""TIFF: bands, sample types and layouts that OpenCV and Pillow take for others."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from fedlens.data.images import decode
from fedlens.errors import DataError

TYPES = ["u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8"]
UNNAMED, ASSOCIATED, ALPHA = 0, 1, 2
LEVELS = np.array([0, 61, 120], np.float64)
"""What a column of `bands` holds; of float types a hundredth of it."""


def bands(count: int, kind: str) -> np.ndarray:
    """(30, 45, count): three columns of `LEVELS`, further to the right by one column in each next band."""
    columns = np.stack([np.roll(LEVELS, band).repeat(15) for band in range(count)], axis=1)
    return np.broadcast_to(columns / (100 if kind[0] == "f" else 1), (30, 45, count)).astype(kind)


def seen(file) -> list[list[int]]:
    return decode(file)[10, [5, 20, 35]].tolist()


def expected(kind: str, colours: int) -> list[list[int]]:
    """8-bit samples come as they are; others are windowed from the least (0) to the greatest (255)."""
    high = (0, 61, 120) if kind == "u1" else (0, 130, 255)  # 61 / 120 × 255 = 129.6
    return [[high[(column - band) % 3] for band in range(colours)] for column in range(3)]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize(
    ("count", "photometric", "colours"),
    [(1, "minisblack", 1), (2, "minisblack", 1), (3, "rgb", 3), (4, "rgb", 3), (4, "minisblack", 3), (6, "rgb", 3)],
)
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_bands_that_are_not_alpha_are_left_out(tmp_path, kind, planar, count, photometric, colours, compression):
    pixels = bands(count, kind)
    stored = pixels if planar == "contig" else np.moveaxis(pixels, -1, 0)
    layout = {"planarconfig": planar} if count > 1 else {}
    extra = [UNNAMED] * (count - (3 if photometric == "rgb" else 1))
    options = {**layout, "photometric": photometric, "extrasamples": extra or None, "compression": compression}
    tifffile.imwrite(tmp_path / "a.tif", stored if count > 1 else pixels[..., 0], **options)

    assert seen(tmp_path / "a.tif") == expected(kind, colours)


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_named_alpha_is_composited_whatever_the_compression(tmp_path, kind, compression):
    most = np.iinfo(kind).max
    pixels = np.zeros((20, 20, 4), kind)
    pixels[..., 0] = most  # red
    pixels[..., 3] = most
    pixels[:10, :, 3] = most // 5
    file = tmp_path / "alpha.tif"
    if compression != "lzw":
        tifffile.imwrite(file, pixels, photometric="rgb", extrasamples=[ALPHA], compression=compression)
    elif kind == "u1":
        Image.fromarray(pixels).save(file, compression="tiff_lzw")
    else:
        cv2.imwrite(str(file), pixels[..., [2, 1, 0, 3]], [cv2.IMWRITE_TIFF_COMPRESSION, 5])

    got = decode(file)[[5, 15], 0].tolist()

    # 0.2 × (255, 0, 0) + 0.8 × 255; OpenCV writes a fourth band without a name
    assert got == [[255, 204, 204], [255, 0, 0]] if (kind, compression) != ("u2", "lzw") else [[255, 0, 0]] * 2


def test_colours_multiplied_by_alpha_are_divided_first(tmp_path):
    pixels = np.zeros((10, 10, 4), np.uint8)
    pixels[..., 0], pixels[..., 3] = 51, 51  # a fifth of full red, a fifth opaque
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=[ASSOCIATED])

    assert decode(tmp_path / "a.tif")[0, 0].tolist() == [255, 204, 204]


@pytest.mark.parametrize("kind", ["u1", "u2", "i2", "f4"])
def test_white_is_zero(tmp_path, kind):
    tifffile.imwrite(tmp_path / "a.tif", bands(1, kind)[..., 0], photometric="miniswhite")

    white = {"u1": [255, 194, 135]}.get(kind, [255, 125, 0])
    assert [row[0] for row in seen(tmp_path / "a.tif")] == white


def test_orientation_and_first_page(tmp_path):
    first = np.zeros((4, 6, 2), np.uint16)
    first[0, :, 0] = 9
    with tifffile.TiffWriter(tmp_path / "a.tif", bigtiff=True) as file:
        # 6: the first row is the right-hand side
        options = {"photometric": "minisblack", "planarconfig": "contig"}
        file.write(first, **options, extratags=[(274, 3, 1, 6, True)])
        file.write(first[:2], **options)

    pixels = decode(tmp_path / "a.tif")

    assert pixels.shape == (6, 4, 1)
    assert (pixels[:, 3] == 255).all()


def test_what_no_library_reads_is_said_with_the_way_out(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", bands(2, "u2"), photometric="minisblack", planarconfig="contig")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    place = data.index(b"\x03\x01\x03\x00\x01\x00\x00\x00\x01\x00")  # tag 259, one short: no compression
    data[place + 8] = 5  # LZW
    (tmp_path / "a.tif").write_bytes(data)

    with pytest.raises(DataError, match="2 bands of type uint16 with LZW compression cannot be read; save it with"):
        decode(tmp_path / "a.tif")


def test_strips_that_inflate_to_more_than_the_picture(tmp_path):
    import zlib

    pixels = np.zeros((10, 10, 2), np.uint8)
    options = {"photometric": "minisblack", "planarconfig": "contig", "compression": "zlib"}
    bomb = zlib.compress(bytes(1_000_000))
    tifffile.imwrite(tmp_path / "a.tif", iter([bomb]), shape=pixels.shape, dtype=np.uint8, **options)

    with pytest.raises(DataError, match="inflates to more bytes than the whole picture has"):
        decode(tmp_path / "a.tif")


@pytest.mark.parametrize("cut", [6, 20, 300, -10])
def test_a_cut_file(tmp_path, cut):
    tifffile.imwrite(tmp_path / "a.tif", bands(2, "u2"), photometric="minisblack", planarconfig="contig")
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:cut])

    with pytest.raises(DataError, match="or a damaged one"):
        decode(tmp_path / "a.tif")
