"""Sources that come with the install: the sample, and the solar cells and textiles of the extras."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from fedlens.data.sources.elpv import ELPV
from fedlens.data.sources.fashion_mnist import CLASS_NAMES
from fedlens.data.sources.sample import Sample
from fedlens.data.sources.textile import Textile
from fedlens.errors import DataError


def test_sample_is_what_its_readme_says():
    table = Sample().load()

    assert table.images.shape == (6000, 28, 28, 1)
    assert (table.images.dtype, table.labels.dtype) == (np.uint8, np.int64)
    assert (table.class_names, table.channels, table.native_size) == (CLASS_NAMES, 1, 28)
    train = table.split == "train"
    assert np.bincount(table.labels[~train]).tolist() == [100] * 10
    assert set(table.clients[~train]) == {""}
    shops, sizes = np.unique(table.clients[train], return_counts=True)
    assert shops.tolist() == [f"shop-{number:02d}" for number in range(1, 11)]
    assert (sizes.sum(), sizes.min(), sizes.max()) == (5000, 264, 770)


def test_sample_clients_differ_and_miss_no_class_together():
    table = Sample().load()

    counts = np.array([np.bincount(table.labels[table.clients == f"shop-{n:02d}"], minlength=10) for n in range(1, 11)])

    assert counts.sum(axis=0).min() >= 200
    assert (counts == 0).any()
    assert len({int(row.argmax()) for row in counts}) >= 5  # shops specialise in different things


def test_sample_shows_real_clothes():
    table = Sample().load()

    # a boot is taller at the heel than at the toe, trousers are narrow, a bag fills the frame
    mean = {name: table.images[table.labels == label].mean(axis=0)[..., 0] for label, name in enumerate(CLASS_NAMES)}
    assert mean["Ankle boot"][8:14, 16:24].mean() > 1.5 * mean["Ankle boot"][8:14, :8].mean()
    assert mean["Trouser"][10:20, :6].mean() < 10 < mean["Bag"][10:20, :6].mean()
    assert len(np.unique(table.images.reshape(6000, -1), axis=0)) > 5990


def test_elpv_figures():
    table = ELPV().load()

    assert len(table.images) == len(table.labels) == 2624
    assert round(1 - table.labels.mean(), 3) == 0.687  # the majority class, functional
    plants, sizes = np.unique(table.clients, return_counts=True)
    # ten runs of one module type in the file's order, counted by hand from labels.csv
    assert sizes.tolist() == [60, 300, 180, 360, 714, 530, 72, 180, 48, 180]
    assert plants[:2].tolist() == ["plant-01-mono", "plant-02-poly"]
    rates = [table.labels[table.clients == plant].mean() for plant in plants]
    assert (round(min(rates), 2), round(max(rates), 2)) == (0.08, 0.92)
    assert all(path.is_file() for path in (table.images[0], table.images[-1]))
    assert (table.channels, table.native_size, table.groups) == (1, 300, None)


def test_elpv_threshold_moves_the_boundary():
    assert round(ELPV(threshold=0.3).load().labels.mean(), 3) == 0.425  # (295 + 106 + 715) / 2624


def test_textile_figures():
    table = Textile().load()

    # as the README of the package says
    assert np.bincount(table.labels).tolist() == [1000, 500, 500]
    assert table.class_names == ("no defect", "local defect", "global defect")
    folders = {
        name: {path.parent.name for path in np.array(table.images)[table.labels == label]}
        for label, name in enumerate(table.class_names)
    }
    assert folders == {"no defect": {"nominal"}, "local defect": {"local"}, "global defect": {"global"}}
    with Image.open(table.images[-1]) as image:
        colours = np.asarray(image)
    assert colours.shape == (250, 250, 3)
    assert (colours == colours[..., :1]).all()
    assert (table.channels, table.native_size, table.groups) == (1, 250, None)


@pytest.mark.parametrize(
    ("source", "package", "extra"), [(ELPV, "elpv_dataset", "solar"), (Textile, "conformal_clip_data", "textile")]
)
def test_images_of_an_extra_without_its_package(source, package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(DataError, match=rf"pip install fedlens\[{extra}\]"):
        source().load()
