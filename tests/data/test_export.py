from __future__ import annotations

import csv
import json

import cv2
import numpy as np
import pytest

from fedlens.data.division import DivisionPlan
from fedlens.data.excerpt import excerpt
from fedlens.data.export import export, folder_names, take
from fedlens.data.partition.iid import Iid
from fedlens.data.partition.natural import Natural
from fedlens.data.partition.pathological import Pathological
from fedlens.data.sources.clients import ClientFolders
from fedlens.data.sources.manifest import Manifest
from fedlens.data.types import ImageTable
from fedlens.errors import DataError

PLAN = DivisionPlan(Iid(), clients=2, validation=0.1, client_test=0.1, test=0.2, seed=0)


@pytest.fixture
def photos(tmp_path):
    """40 files in two folders by class, the same names in both sub-folders of each."""
    files, labels = [], []
    for number in range(40):
        folder = tmp_path / "photos" / "ab"[number % 2] / str(number // 20)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{number % 20}.jpg"
        file.write_bytes(b"picture %d" % number)
        files.append(file)
        labels.append(number % 2)
    return ImageTable(files, np.array(labels), ("a", "b"))


def write(table, tmp_path, plan=PLAN, **how):
    return export(table, plan, tmp_path / "out", **how)


def test_every_file_is_copied_once_and_reads_back(photos, tmp_path):
    seen = []
    done = write(photos, tmp_path, progress=lambda now, total: seen.append((now, total)))
    assert done.folders == {"client1": 16, "client2": 16, "test": 8}
    assert seen == [(number, 40) for number in range(1, 41)]
    written = list((tmp_path / "out").rglob("*.jpg"))
    assert sorted(file.read_bytes() for file in written) == sorted(b"picture %d" % number for number in range(40))
    table = ClientFolders(tmp_path / "out").load()
    assert table.class_names == ("a", "b")
    assert sorted(set(table.clients)) == ["", "client1", "client2"]
    assert (table.split == "test").sum() == 8
    for file, label in zip(table.images, table.labels, strict=True):
        assert int(file.read_bytes().split()[1]) % 2 == label


def test_partition_json_says_how(photos, tmp_path):
    write(photos, tmp_path, DivisionPlan(Pathological(1), 2, 0.0, 0.0, 0.0, seed=7))
    record = json.loads((tmp_path / "out/partition.json").read_text())
    assert record == {
        "scheme": "pathological",
        "parameters": {"classes_per_client": 1},
        "seed": 7,
        "class_names": ["a", "b"],
        "test": None,
        "clients": {"client1": [20, 0], "client2": [0, 20]},
    }
    assert not (tmp_path / "out/test").exists()


def test_links_share_the_file(photos, tmp_path):
    write(photos, tmp_path, link=True)
    assert all(file.stat().st_nlink == 2 for file in (tmp_path / "out").rglob("*.jpg"))


def test_arrays_become_png_in_the_right_colours(tmp_path):
    images = np.zeros((20, 4, 4, 3), np.uint8)
    images[..., 0] = 250  # red
    table = ImageTable(images, np.arange(20) % 2, ("T-shirt/top", "bag"))
    write(table, tmp_path)
    folder = tmp_path / "out/client1/T-shirt-top"
    (file, *_) = sorted(folder.iterdir())
    assert cv2.imread(str(file))[0, 0].tolist() == [0, 0, 250]  # OpenCV reads BGR
    assert ClientFolders(tmp_path / "out").load().class_names == ("T-shirt-top", "bag")


def test_natural_clients_keep_safe_names(photos, tmp_path):
    owners = np.array(["St. Mary/east", "test"] * 20)
    table = take(photos, np.arange(40))
    table = ImageTable(table.images, np.arange(40) // 20, ("a", "b"), clients=owners)
    done = write(table, tmp_path, DivisionPlan(Natural(), 2, 0.0, 0.0, 0.2, 0))
    assert set(done.folders) == {"St. Mary-east", "test-2", "test"}


def test_groups_go_to_a_manifest(photos, tmp_path):
    groups = np.array([f"patient{number // 4}" for number in range(40)])
    done = write(ImageTable(photos.images, photos.labels, ("a", "b"), groups=groups), tmp_path)
    assert "manifest.csv" in done.notes[0]
    table = Manifest(tmp_path / "out/manifest.csv").load()
    assert len(table.images) == 40
    assert not set(table.groups[table.split == "test"]) & set(table.groups[table.split == "train"])
    assert sorted(set(table.clients)) == ["", "client1", "client2"]
    with (tmp_path / "out/manifest.csv").open() as file:
        assert next(csv.reader(file)) == ["path", "label", "client", "group", "split"]


def test_a_full_folder_is_left_alone_unless_it_is_an_export(photos, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "diary.txt").write_text("mine")
    with pytest.raises(DataError, match=r"not empty \(diary.txt"):
        write(photos, tmp_path)
    with pytest.raises(DataError, match="no earlier export"):
        write(photos, tmp_path, overwrite=True)
    (out / "diary.txt").unlink()
    write(photos, tmp_path, DivisionPlan(Iid(), 4, 0, 0, 0.2, 0))
    (out / "diary.txt").write_text("mine")
    write(photos, tmp_path, overwrite=True)
    assert sorted(entry.name for entry in out.iterdir()) == [
        "classes.json", "client1", "client2", "diary.txt", "partition.json", "test"
    ]  # fmt: skip
    assert len(list(out.rglob("*.jpg"))) == 40


def test_overwrite_never_removes_the_images_that_it_reads(photos, tmp_path):
    write(photos, tmp_path)
    again = ClientFolders(tmp_path / "out").load()
    with pytest.raises(DataError, match="holds the images to be exported"):
        write(again, tmp_path, overwrite=True)
    assert len(list((tmp_path / "out").rglob("*.jpg"))) == 40


def test_overwrite_stays_inside_the_folder(photos, tmp_path):
    write(photos, tmp_path)
    record = tmp_path / "out/partition.json"
    record.write_text(json.dumps({"clients": {"../photos": [], "..": []}}))
    write(photos, tmp_path, overwrite=True)
    assert all(file.exists() for file in photos.images)


def test_a_file_that_is_gone_is_named(photos, tmp_path):
    photos.images[3].unlink()
    with pytest.raises(DataError, match=r"3\.jpg: No such file"):
        write(photos, tmp_path)


def test_folder_names():
    assert folder_names(["a/b", "a\\b", "A-B", "..", "ok"], taken=["OK"]) == [
        "a-b",
        "a-b-2",
        "A-B-3",
        "unnamed",
        "ok-2",
    ]


def test_excerpt_of_the_sample():
    table = excerpt(2, 200, seed=0)
    assert {name: int((table.clients == name).sum()) for name in set(table.clients)} == {
        "client1": 200, "client2": 200, "": 1000
    }  # fmt: skip
    assert np.array_equal(excerpt(2, 200, 0).images, table.images)
    with pytest.raises(DataError, match="has 10 clients, not 11"):
        excerpt(11, 200, seed=0)


def test_a_small_excerpt_has_the_test_images_of_its_classes_only():
    """As a training set without all classes must have, or it could not be read again."""
    table = excerpt(2, 3, seed=0)
    tests, training = (set(table.labels[chosen]) for chosen in (table.clients == "", table.clients != ""))
    assert tests == training
    assert len(tests) < 10


@pytest.fixture
def told(photos):
    """Of 40 rows every fourth has no image, every third no text, some of them both."""
    images = [file if row % 4 else None for row, file in enumerate(photos.images)]
    texts = [f'row {row}: "猫, 🐈"' if row % 3 or not row % 4 else "" for row in range(40)]
    return ImageTable(images, photos.labels, ("a", "b"), texts=texts)


def by_text(table):
    return sorted((text, table.class_names[label], image) for text, label, image in zip(table.texts, table.labels, table.has_image.tolist(), strict=True))  # fmt: skip  # noqa: E501


def test_texts_go_to_manifests_that_read_back(told, tmp_path):
    seen = []
    done = write(told, tmp_path, progress=lambda now, total: seen.append((now, total)))

    assert done.only_manifest
    assert done.folders == {"client1": 16, "client2": 16, "test": 8}
    assert seen[-1] == (30, 30)
    assert done.notes[-1] == (
        "folders hold no texts; manifest.csv does, and each client's folder has its own for its site"
    )
    whole = Manifest(tmp_path / "out/manifest.csv").load()
    assert by_text(whole) == by_text(told)
    assert {name: int((whole.clients == name).sum()) for name in set(whole.clients)} == {"client1": 16, "client2": 16, "": 8}  # fmt: skip  # noqa: E501
    assert ((whole.split == "test") == (whole.clients == "")).all()
    for name, owned in (("client1", whole.clients == "client1"), ("test", whole.clients == "")):
        moved = (tmp_path / "out" / name).rename(tmp_path / f"site-{name}")
        site = Manifest(moved / "manifest.csv").load()
        assert by_text(site) == by_text(take(whole, np.flatnonzero(owned)))
        assert (site.clients, site.split) == (None, None)


def test_rows_keep_their_texts_and_groups_together(told, tmp_path):
    groups = np.array([f"patient{row // 4}" for row in range(40)])
    write(ImageTable(told.images, told.labels, ("a", "b"), groups=groups, texts=told.texts), tmp_path)
    with (tmp_path / "out/client1/manifest.csv").open(encoding="utf-8") as file:
        assert next(csv.reader(file)) == ["path", "label", "group", "text"]
    table = Manifest(tmp_path / "out/manifest.csv").load()
    group_of = dict(zip(told.texts, groups, strict=True))
    assert all(group_of[text] == group for text, group in zip(table.texts, table.groups, strict=True) if text)


def test_an_export_of_texts_alone_is_replaced_as_a_whole(told, tmp_path):
    alone = ImageTable([None] * 40, told.labels, ("a", "b"), texts=[f"row {row}" for row in range(40)], channels=1)
    write(alone, tmp_path, DivisionPlan(Iid(), 4, 0, 0, 0.2, 0))
    assert sorted(file.name for file in (tmp_path / "out/client4").iterdir()) == ["manifest.csv"]
    assert Manifest(tmp_path / "out/client4/manifest.csv").load().channels == 1
    write(alone, tmp_path, overwrite=True)
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir() if entry.is_dir()) == ["client1", "client2", "test"]  # fmt: skip  # noqa: E501


def test_taking_rows_takes_their_texts(told):
    taken = take(told, np.array([4, 1]))
    assert taken.texts == [told.texts[4], told.texts[1]]
    assert taken.has_image.tolist() == [False, True]
