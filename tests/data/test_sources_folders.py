"""Sources that read folders and tables of the user's own photographs, and how `auto` tells them apart."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedlens.data.base import sources
from fedlens.data.detect import detect
from fedlens.data.sources.clients import ClientFolders
from fedlens.data.sources.imagefolder import ImageFolder
from fedlens.data.types import ImageTable
from fedlens.errors import DataError


def put(root: Path, *names: str) -> None:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(file)


def names(table: ImageTable, root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in table.images]


def test_imagefolder_sorts_and_labels_by_class(tmp_path):
    put(tmp_path, "dog/b.jpg", "dog/a.JPG", "cat/c.png", "dog/more/z.jpg", ".hidden/x.jpg", "cat/._c.png")
    (tmp_path / "cat" / "notes.txt").write_text("not an image")

    table = ImageFolder(tmp_path).load()

    assert names(table, tmp_path) == ["cat/c.png", "dog/a.JPG", "dog/b.jpg", "dog/more/z.jpg"]
    assert table.class_names == ("cat", "dog")
    assert table.labels.tolist() == [0, 1, 1, 1]
    assert (table.split, table.clients, table.groups, table.channels) == (None, None, None, 3)
    assert detect(tmp_path) == "imagefolder"


def test_imagefolder_recognises_official_splits(tmp_path):
    put(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg", "validation/cat/3.jpg", "test/dog/4.jpg")

    table = ImageFolder(tmp_path).load()

    found = dict(zip(names(table, tmp_path), table.split.tolist(), strict=True))
    assert found == {
        "train/cat/1.jpg": "train",
        "train/dog/2.jpg": "train",
        "validation/cat/3.jpg": "val",
        "test/dog/4.jpg": "test",
    }
    assert table.class_names == ("cat", "dog")
    assert detect(tmp_path) == "imagefolder"


def test_class_called_train_is_no_split(tmp_path):
    put(tmp_path, "train/1.jpg", "bus/2.jpg")

    assert ImageFolder(tmp_path).load().class_names == ("bus", "train")


def test_clients_in_natural_order_with_nobodys_test(tmp_path):
    put(tmp_path, "client10/cat/1.jpg", "client9/dog/2.jpg", "client9/cat/3.jpg", "test/cat/4.jpg")

    table = ClientFolders(tmp_path).load()

    assert names(table, tmp_path) == ["client9/cat/3.jpg", "client9/dog/2.jpg", "client10/cat/1.jpg", "test/cat/4.jpg"]
    assert table.clients.tolist() == ["client9", "client9", "client10", ""]
    assert table.split.tolist() == ["train", "train", "train", "test"]
    assert table.labels.tolist() == [0, 1, 0, 0]
    assert detect(tmp_path) == "clients"
    assert detect(tmp_path / "client9") == "imagefolder"


def test_clients_without_test_have_no_split(tmp_path):
    put(tmp_path, "north/cat/1.jpg", "south/cat/2.jpg")

    assert ClientFolders(tmp_path).load().split is None


def test_classes_file_orders_and_adds_classes(tmp_path):
    put(tmp_path, "client1/cat/1.jpg", "client2/dog/2.jpg")
    (tmp_path / "classes.json").write_text(json.dumps(["dog", "fox", "cat"]))

    table = ClientFolders(tmp_path).load()

    assert table.class_names == ("dog", "fox", "cat")
    assert table.labels.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('["cat"]', r"classes\.json lacks the class folders dog"),
        ('["cat", "cat", "dog"]', "list of different class names"),
        ('{"cat": 0}', "list of different class names"),
        ("cat, dog", "not a JSON list"),
    ],
)
def test_bad_classes_file(tmp_path, content, message):
    put(tmp_path, "cat/1.jpg", "dog/2.jpg")
    (tmp_path / "classes.json").write_text(content)

    with pytest.raises(DataError, match=message):
        ImageFolder(tmp_path).load()


@pytest.mark.parametrize("source", [ImageFolder, ClientFolders])
def test_empty_missing_and_flat_folders(tmp_path, source):
    with pytest.raises(DataError, match=r"no images in .*expected <class>/<image>"):
        source(tmp_path).load()
    with pytest.raises(DataError, match="nowhere does not exist"):
        source(tmp_path / "nowhere").load()
    put(tmp_path, "loose.jpg")
    with pytest.raises(DataError, match="lie outside class folders"):
        source(tmp_path).load()
    with pytest.raises(DataError, match="is a file, not a folder"):
        source(tmp_path / "loose.jpg").load()


def test_detect_says_what_it_looked_for(tmp_path):
    assert detect(None) == "sample"
    with pytest.raises(DataError, match=r"no images in .*<client>/<class>/<image>.*manifest"):
        detect(tmp_path)
    with pytest.raises(DataError, match=r"does not exist .*data\.source to huggingface"):
        detect(tmp_path / "ylecun" / "mnist")
    (tmp_path / "data.txt").touch()
    with pytest.raises(DataError, match=r"neither a folder nor a \.csv, \.tsv or \.parquet"):
        detect(tmp_path / "data.txt")


def test_system_and_other_files_are_counted_not_read(tmp_path):
    put(tmp_path, "cat/1.png", "dog/2.png", "loose.png", "__MACOSX/cat/._1.png", "cat/@eaDir/1.png/preview.jpg")
    put(tmp_path, "$RECYCLE.BIN/dog/9.png", "dog/.thumbnails/2.png", "dog/._2.png", "System Volume Information/x/1.png")
    for name in ("cat/Thumbs.db", "dog/.DS_Store", "cat/notes.txt", "cat/more.TXT", "dog/README", "partition.png"):
        (tmp_path / name).write_text("no image")
    (tmp_path / "dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "fox").mkdir()

    table = ImageFolder(tmp_path).load()

    assert names(table, tmp_path) == ["cat/1.png", "dog/2.png"]
    assert table.class_names == ("cat", "dog")
    summary, loose, empty, system, other = table.notes
    assert summary.endswith("read as <class>: 2 classes (cat, dog), no splits")
    assert loose.startswith("left out 1 image outside class folders, such as") and loose.endswith("loose.png")
    assert empty == "no images in fox: not a class, client or split"
    assert all(name in system for name in ("1 __MACOSX", "1 $RECYCLE.BIN", "1 ._…", "and 3 more"))
    assert other == "ignored files that are no images by their names: 2 .txt, 1 no suffix, 1 broken link"


def test_every_real_folder_is_read_once(tmp_path):
    root = tmp_path / "data"
    put(root, "cup/1.png", "fork/2.png")
    put(tmp_path, "elsewhere/3.png")
    (root / "plate").symlink_to(tmp_path / "elsewhere")  # a class on another disk
    (root / "cup" / "all").symlink_to("..")
    (root / "fork" / "all").symlink_to("..")
    (root / "fork" / "above").symlink_to(tmp_path)
    (root / "again").symlink_to("cup")

    table = ImageFolder(root).load()

    assert names(table, root) == ["cup/1.png", "fork/2.png", "plate/3.png"]
    assert "not followed: 4 links" in table.notes[1]


def test_one_class_in_two_unicode_forms(tmp_path):
    put(tmp_path, "a/caf\u00e9/1.png", "b/cafe\u0301/2.png", "a/dog/3.png", "b/Dog/4.png")

    table = ClientFolders(tmp_path).load()

    assert table.class_names == ("Dog", "caf\u00e9", "dog")
    assert table.labels.tolist() == [1, 2, 0, 1]
    assert table.notes[1] == "the class 'caf\u00e9' is written in 2 Unicode forms: read as one class"
    assert table.notes[2].startswith("the classes 'Dog' and 'dog' differ in case")


def test_splits_and_clients_in_one_folder(tmp_path):
    put(tmp_path, *[f"{c}/{s}/{k}/{c}{s}.png" for c in "ab" for s in ("Training", "eval") for k in ("cat", "dog")])

    table = ClientFolders(tmp_path).load()

    assert table.clients.tolist() == ["a"] * 4 + ["b"] * 4
    assert table.split.tolist() == ["train", "train", "val", "val"] * 2
    assert table.labels.tolist() == [0, 1] * 4
    assert table.notes[0] == (
        f"{tmp_path} read as <client>/<split>/<class>: 2 clients (a, b), splits train/val (folders Training, eval), "
        "2 classes (cat, dog)"
    )
    assert detect(tmp_path) == "clients"


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("two\nlines", "two lines"),
        ("\x1b[2Jcat", "[2Jcat"),
        ("cat\ufeff", "cat"),  # byte order mark
        ("c\xadat", "cat"),  # soft hyphen
        ("\u202ecat", "cat"),  # right-to-left override
        ("big\xa0cat", "big cat"),  # no-break space
        ("\u200b", "\ufffd"),  # nothing else
    ],
)
def test_names_with_characters_that_are_not_shown(tmp_path, name, read):
    put(tmp_path, "dog/1.png", f"{name}/1.png")

    table = ImageFolder(tmp_path).load()

    assert set(table.class_names) == {"dog", read}
    assert len(table.images) == 2


def test_names_that_are_no_text(tmp_path):
    put(tmp_path, "dog/1.png")
    put(tmp_path, os.fsdecode(b"caf\xe9") + "/1.png")

    with pytest.raises(DataError) as raised:
        ImageFolder(tmp_path).load()

    assert str(raised.value).isprintable()
    assert "rename the folder" in str(raised.value)


def test_a_folder_that_may_not_be_listed(tmp_path, monkeypatch):
    put(tmp_path, "cat/1.png", "dog/2.png")
    listed = os.scandir

    def scandir(path):
        if Path(path).name == "dog":
            raise PermissionError(errno.EACCES, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"dog: the folder cannot be listed \(Permission denied\)"):
        ImageFolder(tmp_path).load()


def test_an_unlabelled_test_folder_is_left_out(tmp_path):
    put(tmp_path, "train/cat/1.png", "train/dog/2.png", "test/3.png", "test/4.png")

    table = ImageFolder(tmp_path).load()

    assert table.split.tolist() == ["train", "train"]
    assert table.notes[1].startswith("left out 2 images outside class folders")


def test_no_folders_of_clients(tmp_path):
    put(tmp_path, "cat/1.png", "dog/2.png")

    with pytest.raises(DataError, match="no folders of clients in"):
        ClientFolders(tmp_path).load()


def test_registered_with_their_keys(tmp_path):
    put(tmp_path, "cat/1.jpg")

    assert {"imagefolder", "clients", "manifest", "huggingface", "sample", "elpv"} <= set(sources.names())
    assert sources.get("imagefolder").build({"path": str(tmp_path)}).load().class_names == ("cat",)
