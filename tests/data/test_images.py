"""Decoding: every kind of file ends as upright uint8 RGB or grey."""

from __future__ import annotations

import io
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from fedlens.data.images import decode, fit, pixel_size, read, resize, to_channels
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


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_tiff_without_any_number_is_no_picture(tmp_path, value):
    cv2.imwrite(str(tmp_path / "float.tif"), np.full((20, 20), value, np.float32))
    with pytest.raises(DataError, match="all of its samples are NaN or infinite"):
        decode(tmp_path / "float.tif")


def test_a_pointer_of_git_lfs_is_said(tmp_path):
    (tmp_path / "a.jpg").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n")
    with pytest.raises(DataError, match="git lfs pull"):
        decode(tmp_path / "a.jpg")


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


def with_orientation(kind: int, value: bytes) -> bytes:
    """A JPEG, 60 × 40, whose EXIF orientation has the given TIFF type and bytes."""
    exif = b"Exif\0\0II*\0" + struct.pack("<IHHHI", 8, 1, 0x112, kind, 1) + value.ljust(4, b"\0") + bytes(4)
    buffer = io.BytesIO()
    Image.fromarray(quadrants()).save(buffer, "JPEG")
    data = buffer.getvalue()
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


@pytest.mark.parametrize(
    ("kind", "value", "turned"),
    [
        (3, b"\6\0", True),  # a short, as the standard has it
        (4, b"\6\0\0\0", True),  # a long
        (1, b"\6", False),  # a byte
        (7, b"\6", False),  # undefined
        (5, b"\x1a\0\0\0", False),  # a fraction that points beyond the end
        (2, b"top", False),  # text
        (12, b"\0\0\0\0", False),  # a double that points at its own tag
        (3, b"\0\0", False),
        (3, b"\x09\0", False),
        (8, b"\xff\xff", False),  # -1
    ],
)
def test_an_orientation_that_is_no_number_from_1_to_8_is_ignored(tmp_path, kind, value, turned):
    (tmp_path / "a.jpg").write_bytes(with_orientation(kind, value))

    assert decode(tmp_path / "a.jpg").shape == ((60, 40, 3) if turned else (40, 60, 3))


def test_a_photograph_over_the_limit_is_read_in_a_reduced_size(tmp_path):
    file = tmp_path / "a.jpg"
    Image.fromarray(quadrants(400, 600)).save(file)

    assert [decode(file, max_pixels=limit).shape[:2] for limit in (240_000, 239_999, 60_000, 59_999, 3_750)] == [
        *((400, 600), (200, 300), (200, 300), (100, 150), (50, 75))
    ]
    with pytest.raises(DataError, match=r"600 × 400 pixels are more than the limit of 3,749"):  # 240,000 / 8²
        decode(file, max_pixels=3_749)


@pytest.mark.parametrize("suffix", ["png", "gif", "bmp", "webp", "tif", "tga", "jp2", "avif", "ppm"])
def test_other_formats_over_the_limit_are_refused(tmp_path, suffix):
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(quadrants(40, 40)).save(file)

    assert pixel_size(file) == (40, 40)
    assert decode(file, max_pixels=1_600).shape == (40, 40, 3)
    with pytest.raises(DataError, match=r"40 × 40 pixels are more than the limit of 1,599"):
        decode(file, max_pixels=1_599)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_a_header_of_billions_of_pixels_is_refused_before_anything_is_decoded(tmp_path):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 16, 2, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")))

    with pytest.raises(DataError, match=r"a.png: 30,000 × 30,000 pixels are more than the limit of 100,000,000; "):
        decode(tmp_path / "a.png")


def test_pillows_own_limit_is_as_it_was(tmp_path):
    Image.new("1", (16_000, 12_000)).save(tmp_path / "a.png")  # what Pillow alone refuses to open

    before = Image.MAX_IMAGE_PIXELS
    assert pixel_size(tmp_path / "a.png") == (16_000, 12_000)
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "avif"])
def test_the_first_frame_of_an_animation(tmp_path, suffix):
    frames = [Image.new("RGB", (20, 10), colour) for colour in (RED, GREEN, BLUE)]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **options)

    assert np.allclose(decode(tmp_path / f"a.{suffix}"), np.full((10, 20, 3), RED), atol=3)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm", "jp2"])
def test_sixteen_bits_in_every_format(tmp_path, suffix):
    values = np.linspace(0, 65_535, 400).astype(np.uint16).reshape(20, 20)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")

    pixels = decode(tmp_path / f"a.{suffix}")

    assert pixels.shape == (20, 20, 1)
    assert (pixels[0, 0, 0], pixels[-1, -1, 0]) == (0, 255)
    assert abs(int(pixels[10, 0, 0]) - 128) <= 1


@pytest.mark.parametrize("mode", ["P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB"])
def test_colour_modes_of_tiff(tmp_path, mode):
    image = Image.fromarray(quadrants())
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.applyTransform(image, ImageCms.buildTransform(srgb, lab, "RGB", "LAB"))
    else:
        image = image.quantize(4) if mode == "P" else image.convert(mode)
    image.save(tmp_path / "a.tif")

    assert np.allclose(corners(decode(tmp_path / "a.tif")), [RED, GREEN, BLUE, SAND], atol=25 if mode == "LAB" else 4)


@pytest.mark.parametrize(("mode", "shown"), [("1", 255), ("L", 255), ("LA", 255), ("I;16", 0), ("I", 0), ("F", 0)])
def test_grey_modes_of_tiff(tmp_path, mode, shown):
    value = np.full((10, 10), 255, {"I;16": "u2", "I": "i4", "F": "f4"}.get(mode, "u1"))
    image = Image.fromarray(value)
    (image if image.mode == mode else image.convert(mode)).save(tmp_path / "a.tif")

    assert (decode(tmp_path / "a.tif") == shown).all()  # what is windowed and of one value is black


def test_what_libraries_print_stays_off_the_console(tmp_path, capfd):
    buffer = io.BytesIO()
    Image.fromarray(quadrants()).save(buffer, "PNG", icc_profile=b"no profile" * 20)  # libpng warns
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    (tmp_path / "cut.png").write_bytes(buffer.getvalue()[:-100])
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "b.tif", compression="tiff_lzw")
    data = (tmp_path / "b.tif").read_bytes()
    (tmp_path / "b.tif").write_bytes(data[:3000] + bytes(500) + data[3500:])  # libtiff reports an error
    palette = Image.fromarray(quadrants()).quantize(4)
    palette.save(tmp_path / "c.png", transparency=bytes([255, 0, 255, 255]))  # Pillow warns

    for name in ("a.png", "b.tif", "c.png", "cut.png"):
        try:
            decode(tmp_path / name)
        except DataError as error:
            assert name in ("b.tif", "cut.png"), error
    os.write(2, b"afterwards\n")

    assert capfd.readouterr() == ("", "afterwards\n")


def test_pipes_and_devices_are_no_images(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")

    with pytest.raises(DataError, match=r"pipe.png: a named pipe, not a regular file"):
        decode(tmp_path / "pipe.png")
    with pytest.raises(DataError, match=r"device.png: a device, not a regular file"):
        decode(tmp_path / "device.png")
