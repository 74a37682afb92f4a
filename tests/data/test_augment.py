from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from fedlens.data.augment import augmentation
from fedlens.errors import DataError

NAMES = ["flip", "crop_flip", "randaugment"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(count=64, side=16, channels=3):
    return torch.randint(1, 256, (count, side, side, channels), dtype=torch.uint8, generator=generator(9))


def test_none_is_none_and_does_not_import_torchvision():
    assert augmentation("none") is None
    code = (
        "import sys; from fedlens.data.augment import augmentation as a; a('none'); print('torchvision' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_shape_type_and_determinism(name, channels):
    images, augment = pictures(channels=channels), augmentation(name)
    before, state = images.clone(), torch.get_rng_state()
    out = augment(images, generator(1))
    assert (out.shape, out.dtype) == (images.shape, torch.uint8)
    assert torch.equal(images, before)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(out, augment(images, generator(1)))
    assert not torch.equal(out, augment(images, generator(2)))
    assert augment(images[:0], generator()).shape == (0, 16, 16, channels)


def test_flip_swaps_columns_of_about_half():
    images = pictures(400)
    out = augmentation("flip")(images, generator())
    same = (out == images).flatten(1).all(1)
    swapped = (out == images.flip(2)).flatten(1).all(1)
    assert (same ^ swapped).all()
    assert 160 < int(same.sum()) < 240  # half of 400, give or take four standard deviations (10)


def test_crop_moves_each_image_by_an_eighth_at_most():
    images = torch.zeros(300, 16, 16, 1, dtype=torch.uint8)
    images[:, 8, 8] = 255  # mirrored it would stand in column 7
    out = augmentation("crop_flip")(images, generator())
    assert (out.flatten(1).sum(1, dtype=torch.int64) == 255).all()
    row, column = out[..., 0].flatten(1).argmax(1) // 16, out[..., 0].flatten(1).argmax(1) % 16
    assert set(row.tolist()) == {6, 7, 8, 9, 10}
    assert set(column.tolist()) == {5, 6, 7, 8, 9, 10}


def test_randaugment_differs_by_image():
    images = pictures(1, side=32).expand(16, -1, -1, -1)
    out = augmentation("randaugment")(images, generator())
    assert len({tuple(image.flatten().tolist()) for image in out}) > 12


def test_float_tensors_are_refused():
    with pytest.raises(DataError, match=r"data\.augment"):
        augmentation("flip")(torch.rand(2, 3, 8, 8), generator())
