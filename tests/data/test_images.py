"""Decoding: every kind of file ends as upright uint8 RGB or grey."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from fedlens.data.images import decode, fit, read, resize, to_channels
from fedlens.errors import DataError

RED, GREEN, BLUE, SAND = (255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 180, 40)


def quadrants(height: int = 40, width: int = 60) -> np.ndarray:
    """Red and green above blue and sand."""
    pixels = np.zeros((height, width, 3), np.uint8)
    half, middle = height // 2, width // 2
    pixels[:half, :middle], pixels[:half, middle:] = RED, GREEN
    pixels[half:, :middle], pixels[half:, middle:] = BLUE, SAND
    return pixels


def corners(pixels: np.ndarray) -> list[list[int]]:
    return [pixels[y, x].tolist() for y, x in ((5, 5), (5, -5), (-5, 5), (-5, -5))]


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp", "gif", "ppm", "jp2", "avif", "tga"])
def test_formats_come_as_rgb(tmp_path, suffix):
    file = tmp_path / f"image.{suffix}"
    Image.fromarray(quadrants()).save(file)

    pixels = decode(file)

    assert (pixels.shape, pixels.dtype) == ((40, 60, 3), np.uint8)
    assert np.allclose(corners(pixels), [RED, GREEN, BLUE, SAND], atol=3)  # the lossy ones are a little off


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk_becomes_rgb(tmp_path, suffix):
    file = tmp_path / f"cmyk.{suffix}"
    Image.fromarray(quadrants()).convert("CMYK").save(file)

    assert np.allclose(corners(decode(file)), [RED, GREEN, BLUE, SAND], atol=3)


def test_palette_becomes_rgb(tmp_path):
    file = tmp_path / "palette.png"
    Image.fromarray(quadrants()).quantize(4).save(file)

    assert np.allclose(corners(decode(file)), [RED, GREEN, BLUE, SAND], atol=4)


@pytest.mark.parametrize("mode", ["L", "1"])
@pytest.mark.parametrize("suffix", ["png", "tif", "tga"])
def test_grey_keeps_one_channel(tmp_path, mode, suffix):
    file = tmp_path / f"grey.{suffix}"
    grey = np.zeros((10, 20), np.uint8)
    grey[:, 10:] = 255
    Image.fromarray(grey).convert(mode).save(file)

    assert np.array_equal(decode(file), grey[..., None])


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"turned.{suffix}"
    Image.fromarray(quadrants()).save(file, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    with Image.open(file) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))

    assert np.array_equal(decode(file), expected)


def test_exif_orientation_of_jpeg_survives_reduced_decoding(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90° clockwise: the left column comes on top
    file = tmp_path / "turned.jpg"
    Image.fromarray(quadrants(400, 600)).save(file, exif=exif, quality=95)

    for pixels in (decode(file), decode(file, for_size=20)):
        assert pixels.shape[0] > pixels.shape[1]
        assert np.allclose(corners(pixels), [BLUE, RED, SAND, GREEN], atol=4)


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "tga"])
def test_alpha_is_composited_on_white(tmp_path, suffix):
    pixels = np.dstack([quadrants(), np.full((40, 60), 255, np.uint8)])
    pixels[:, :10, 3], pixels[:, 10:20, 3] = 0, 51  # transparent; a fifth opaque (51 / 255)
    file = tmp_path / f"alpha.{suffix}"
    Image.fromarray(pixels).save(file, **({"lossless": True, "exact": True} if suffix == "webp" else {}))

    seen = decode(file)

    assert seen[5, 5].tolist() == [255, 255, 255]
    assert seen[5, 15].tolist() == [255, 204, 204]  # red: 0.2 × (255, 0, 0) + 0.8 × 255
    assert seen[5, 25].tolist() == list(RED)


def test_grey_with_alpha_and_transparent_palette(tmp_path):
    grey = np.full((10, 10), 100, np.uint8)
    alpha = np.full((10, 10), 255, np.uint8)
    alpha[0] = 0
    Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]).save(tmp_path / "la.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.png", transparency=100)

    assert decode(tmp_path / "la.png")[:2, 0].tolist() == [[255] * 3, [100] * 3]
    assert (decode(tmp_path / "palette.png") == 255).all()


def test_sixteen_bits_are_windowed_between_percentiles(tmp_path):
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)  # 12 bits in a 16-bit file
    cv2.imwrite(str(tmp_path / "ramp.png"), ramp)

    seen = decode(tmp_path / "ramp.png")[..., 0].ravel()

    # percentiles of 0 … 4095: 4.095 and 4090.905, so v becomes (v − 4.095) × 255 / 4086.81
    assert seen[[0, 4, 2048, 4091, 4095]].tolist() == [0, 0, 128, 255, 255]
    assert seen[1000] == round((1000 - 4.095) * 255 / 4086.81)
    assert (np.diff(seen.astype(int)) >= 0).all()


def test_window_falls_back_to_min_and_max(tmp_path):
    dark = np.zeros((100, 100), np.uint16)
    cv2.imwrite(str(tmp_path / "flat.png"), dark + 700)
    dark[50, 50] = 900  # one pixel of 10,000 is beyond the 99.9th percentile
    cv2.imwrite(str(tmp_path / "spot.png"), dark)

    assert (decode(tmp_path / "flat.png") == 0).all()
    assert decode(tmp_path / "spot.png")[50, 50] == 255


def test_float_tiff_with_nan(tmp_path):
    values = np.linspace(-1, 1, 400, dtype=np.float32).reshape(20, 20)
    values[0, 0] = np.nan
    cv2.imwrite(str(tmp_path / "float.tif"), values)

    seen = decode(tmp_path / "float.tif")

    assert (seen[0, 0, 0], seen[-1, -1, 0]) == (0, 255)
    assert 120 <= seen[10, 0, 0] <= 135


def test_sixteen_bit_alpha(tmp_path):
    bgra = np.zeros((10, 10, 4), np.uint16)
    bgra[..., 2], bgra[5:, :, 0] = 60000, 60000  # red; below also blue
    bgra[..., 3] = 65535
    bgra[0, :, 3] = 0
    cv2.imwrite(str(tmp_path / "deep.png"), bgra)

    assert decode(tmp_path / "deep.png")[[0, 3, 9], 0].tolist() == [[255, 255, 255], [255, 0, 0], [255, 0, 255]]


def test_what_cannot_be_decoded_names_file_and_reason(tmp_path):
    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 50, 3), np.uint8)).save(whole)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:2000])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "folder.jpg").mkdir()

    for name, reason in {
        "cut.png": "damaged",
        "empty.jpg": "the file is empty",
        "text.jpg": "not an image",
        "folder.jpg": "Is a directory",
        "missing.jpg": "No such file",
    }.items():
        with pytest.raises(DataError, match=reason) as caught:
            decode(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")
        assert "\n" not in str(caught.value)


def test_resize_takes_the_central_square_and_averages():
    wide = np.zeros((4, 8, 1), np.uint8)
    wide[:, 2:6, 0] = [[10, 20, 1, 3], [30, 40, 5, 7], [0, 0, 100, 100], [0, 0, 100, 100]]

    # the ends (columns 0, 1, 6, 7) go; each 2 × 2 block becomes its mean
    assert resize(wide, 2)[..., 0].tolist() == [[25, 4], [0, 100]]
    assert resize(wide.transpose(1, 0, 2), 2)[..., 0].tolist() == [[25, 0], [4, 100]]


def test_resize_enlarges_and_leaves_alone():
    small = np.random.default_rng(0).integers(0, 255, (5, 5, 3), np.uint8)

    assert np.array_equal(resize(small, 5), small)
    assert resize(small, 12).shape == (12, 12, 3)
    assert resize(np.full((1, 90, 3), 7, np.uint8), 4).tolist() == np.full((4, 4, 3), 7).tolist()


def test_channels():
    rgb = np.array([[RED, GREEN]], np.uint8)

    assert to_channels(rgb, 1).ravel().tolist() == [76, 150]  # 0.299 × 255, 0.587 × 255
    assert to_channels(np.array([[[9]]], np.uint8), 3).tolist() == [[[9, 9, 9]]]
    assert to_channels(rgb, 3) is rgb


def test_reduced_jpeg_gives_nearly_the_same_square(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
    file = tmp_path / "large.jpg"
    Image.fromarray(cv2.resize(noise, (1600, 1200), interpolation=cv2.INTER_CUBIC)).save(file, quality=95)

    # 1200 / 4 = 300 pixels are more than 2 × 100, 1200 / 8 = 150 are not
    assert decode(file, for_size=100).shape == (300, 400, 3)
    assert decode(file, for_size=1000).shape == (1200, 1600, 3)
    whole = fit(decode(file), size=100, channels=3)
    assert np.abs(read(file, size=100, channels=3).astype(int) - whole).mean() < 1
