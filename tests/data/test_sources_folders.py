"""Sources that read folders and tables of the user's own photographs, and how `auto` tells them apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from fedlens.data.base import sources
from fedlens.data.sources import detect
from fedlens.data.sources.clients import ClientFolders
from fedlens.data.sources.imagefolder import ImageFolder
from fedlens.data.sources.manifest import Manifest
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
    with pytest.raises(DataError, match=r"no source fits .*<client>/<class>/<image>.*manifest"):
        detect(tmp_path)
    with pytest.raises(DataError, match=r"does not exist .*data\.source to huggingface"):
        detect(tmp_path / "ylecun" / "mnist")
    (tmp_path / "data.txt").touch()
    with pytest.raises(DataError, match=r"neither a folder nor a \.csv or \.parquet"):
        detect(tmp_path / "data.txt")


def test_manifest_reads_all_columns(tmp_path):
    put(tmp_path, "photos/1.jpg", "photos/2.jpg", "photos/3.jpg")
    manifest = tmp_path / "all.csv"
    manifest.write_text(
        "path,label,client,group,split,text\n"
        'photos/1.jpg,10,north,p1,train,"a note,\nof two lines"\n'
        "photos/2.jpg,9,,,test,\n"
        f"{tmp_path}/photos/3.jpg,007,south,,val,\n"
    )

    table = Manifest(manifest).load()

    assert names(table, tmp_path) == ["photos/1.jpg", "photos/2.jpg", "photos/3.jpg"]
    assert table.class_names == ("007", "9", "10")  # natural order; leading zeros stay
    assert table.labels.tolist() == [2, 1, 0]
    assert table.clients.tolist() == ["north", "", "south"]
    assert table.split.tolist() == ["train", "test", "val"]
    assert len(set(table.groups.tolist())) == 3  # rows without a group are not one group
    assert detect(manifest) == "manifest"


def test_manifest_in_parquet(tmp_path):
    put(tmp_path, "1.jpg", "2.jpg")
    manifest = tmp_path / "all.parquet"
    parquet.write_table(pa.table({"path": ["1.jpg", "2.jpg"], "label": [1, 0], "client": ["a", None]}), manifest)

    table = Manifest(manifest).load()

    assert (table.class_names, table.labels.tolist()) == (("0", "1"), [1, 0])
    assert table.clients.tolist() == ["a", ""]
    assert (table.split, table.groups) == (None, None)
    assert detect(manifest) == "manifest"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,label\n1.jpg,a\n2.jpg,a\n,b\n", "no such file in 2 of 3 rows: line 3: '2.jpg'; line 4: ''"),
        ("path,label\n1.jpg,\n", "no label in 1 of 1 rows: line 2"),
        ("path,label,split\n1.jpg,a,train\n1.jpg,a,Test\n", "not train, val or test in 1 of 2 rows: line 3: 'Test'"),
        ("path,Label\n1.jpg,a\n", "no column 'label' among path, Label; rename 'label'\\?"),
        ("file,label\n1.jpg,a\n", "no column 'path' among file, label$"),
        ("path,label\n", "has no rows"),
        ("path,label\n1.jpg,a,b\n", "cannot be read as a table: .*Expected 2 columns, got 3"),
        ("", "cannot be read as a table"),
    ],
)
def test_manifest_errors_name_the_lines(tmp_path, content, message):
    put(tmp_path, "1.jpg")
    (tmp_path / "all.csv").write_text(content)

    with pytest.raises(DataError, match=message) as caught:
        Manifest(tmp_path / "all.csv").load()
    assert str(caught.value).startswith(str(tmp_path / "all.csv"))


def test_manifest_counts_many_bad_rows_and_parquet_rows(tmp_path):
    manifest = tmp_path / "all.parquet"
    parquet.write_table(pa.table({"path": [f"{n}.jpg" for n in range(9)], "label": ["a"] * 9}), manifest)

    with pytest.raises(DataError, match=r"9 of 9 rows: row 0: '0\.jpg'; .*row 4: '4\.jpg'; and 4 more$"):
        Manifest(manifest).load()
    with pytest.raises(DataError, match="does not exist"):
        Manifest(tmp_path / "missing.csv").load()


def test_registered_with_their_keys(tmp_path):
    put(tmp_path, "cat/1.jpg")

    assert {"imagefolder", "clients", "manifest", "huggingface", "sample", "elpv"} <= set(sources.names())
    assert sources.get("imagefolder").build({"path": str(tmp_path)}).load().class_names == ("cat",)
