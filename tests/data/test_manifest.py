"""Tables of images: what people's own look like, and what is said of those that cannot be read."""

from __future__ import annotations

import codecs
import gzip
import os
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from fedlens.data.detect import detect
from fedlens.data.sources.manifest import Manifest
from fedlens.data.types import ImageTable
from fedlens.errors import DataError

ROWS = "path,label\nimg/1.jpg,cup\nimg/2.jpg,fork\nimg/3.jpg,cup\n"


@pytest.fixture(autouse=True)
def photos(tmp_path):
    for number in (1, 2, 3):
        (tmp_path / "img").mkdir(exist_ok=True)
        (tmp_path / "img" / f"{number}.jpg").touch()


def load(tmp_path: Path, content: str | bytes, **columns: str) -> ImageTable:
    file = tmp_path / "all.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Manifest(file, columns).load()


def read(table: ImageTable) -> list[tuple[str, str]]:
    """(file, class) of each row."""
    return [(Path(path).name, table.class_names[label]) for path, label in zip(table.images, table.labels, strict=True)]


PLAIN = [("1.jpg", "cup"), ("2.jpg", "fork"), ("3.jpg", "cup")]


def test_all_columns(tmp_path):
    table = load(
        tmp_path,
        "path,label,client,group,split,text\n"
        'img/1.jpg,10,north,p1,train,"a note,\nof two lines"\n'
        "img/2.jpg,9,,,test,\n"
        f"{tmp_path}/img/3.jpg,007,south,,Validation,\n",
    )

    assert [os.path.relpath(path, tmp_path) for path in table.images] == ["img/1.jpg", "img/2.jpg", "img/3.jpg"]
    assert table.class_names == ("007", "9", "10")  # natural order; leading zeros stay
    assert table.labels.tolist() == [2, 1, 0]
    assert table.clients.tolist() == ["north", "", "south"]
    assert table.split.tolist() == ["train", "test", "val"]
    assert table.texts == ["a note, of two lines", "", ""]
    assert len(set(table.groups.tolist())) == 3  # rows without a group are not one group
    assert table.notes == (
        f"{tmp_path}/all.csv read as a table of 3 rows (3 with an image, 1 with a text, 1 with both): 2 clients "
        "(north, south), splits train/val/test, 3 classes (007, 9, 10)",
    )
    assert detect(tmp_path / "all.csv") == "manifest"


def test_parquet(tmp_path):
    manifest = tmp_path / "all.parquet"
    content = {"Path": ["img/1.jpg", "img/2.jpg"], "label": [1, 0], "client": ["a", None]}
    parquet.write_table(pa.table(content), manifest)

    table = Manifest(manifest).load()

    assert (table.class_names, table.labels.tolist()) == (("0", "1"), [1, 0])
    assert table.clients.tolist() == ["a", ""]
    assert (table.split, table.groups) == (None, None)
    assert detect(manifest) == "manifest"


@pytest.mark.parametrize(
    "content",
    [
        ROWS.encode("utf-8-sig"),
        ROWS.encode("utf-16"),
        ROWS.encode("utf-16-le"),
        ROWS.encode("utf-16-be"),
        codecs.BOM_UTF16_BE + ROWS.encode("utf-16-be"),
        ROWS.encode("utf-32"),
        ROWS.replace(",", ";").encode(),
        ROWS.replace(",", "\t").encode(),
        ROWS.replace(",", "|").encode(),
        ("sep=;\n" + ROWS.replace(",", ";")).encode(),
        ROWS.replace("\n", "\r\n").encode(),
        ROWS.replace("\n", "\r").encode(),
        ROWS.replace("\n", ",,\n").replace("label,,", "label").encode(),  # empty fields at the end
        ROWS.replace("\n", "\n\n ,\n").encode(),  # empty lines
        ROWS.replace("path,label", " Path , LABEL ").encode(),
        ROWS.replace("img/1.jpg", '"img/1.jpg"').encode(),
        ROWS.replace("cup", "cup ").encode(),
        ROWS.replace("img/1.jpg", "./img/../img/1.jpg").encode(),
        ("a,a," + ROWS.replace("\n", "\nx,y,")).rstrip("xy,").encode(),  # two columns of one name that nobody reads
    ],
)
def test_what_programs_write(tmp_path, content):
    table = load(tmp_path, content)

    assert read(table) == PLAIN
    assert table.notes == (f"{tmp_path}/all.csv read as a table of 3 images: 2 classes (cup, fork), no splits",)


def test_columns_with_other_names(tmp_path):
    content = "Image Index,Finding,Site,fold\nimg/1.jpg,cup,north,train\nimg/2.jpg,fork,south,test\n"
    table = load(tmp_path, content, path="Image Index", label="Finding", client="Site", split="fold")

    assert read(table) == PLAIN[:2]
    assert (table.clients.tolist(), table.split.tolist()) == (["north", "south"], ["train", "test"])


@pytest.mark.parametrize(
    ("header", "columns", "message"),
    [
        (
            "filename,target",
            {},
            "no column 'path' and no column 'label' among filename, target; name them: "
            "data.columns.path=filename data.columns.label=target",
        ),
        ("file,label", {}, "no column 'path' among file, label; name it: data.columns.path=file"),
        ("path,Class Name", {}, "no column 'label' among path, Class Name; name it: data.columns.label='Class Name'"),
        ("a,b", {}, "no column 'path' and no column 'label' among a, b"),
        ("path,label,label", {}, "2 columns are called 'label'; rename all but one, or remove them"),
        ("path,label,Label", {}, None),
        (
            "emotion,pixels",
            {},
            "no column 'path' and no column 'label' among emotion, pixels: the table holds pixel",
        ),
    ],
)
def test_columns_that_are_missing_or_come_twice(tmp_path, header, columns, message):
    rows = f"{header}\n" + "img/1.jpg,cup,x\n" * 2 if header.count(",") == 2 else f"{header}\nimg/1.jpg,cup\n"
    if message is None:
        assert read(load(tmp_path, rows, **columns)) == PLAIN[:1]
        return
    with pytest.raises(DataError) as caught:
        load(tmp_path, rows, **columns)
    assert str(caught.value).startswith(f"{tmp_path}/all.csv: {message}")
    assert "\n" not in str(caught.value)


def test_a_given_column_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"data.columns.client: .*all.csv has no column 'site' among path, label$"):
        load(tmp_path, ROWS, client="site")


def test_a_column_that_may_hold_the_splits_is_noted(tmp_path):
    table = load(tmp_path, "path,label,Subset,patient_id\nimg/1.jpg,cup,test,7\n")

    assert table.notes[1:] == (
        "the column 'Subset' is not read; if it names the splits: data.columns.split=Subset",
        "the column 'patient_id' is not read; if it names rows that belong together: data.columns.group=patient_id",
    )


@pytest.mark.parametrize("column", ["Subset", "Usage", "data set"])
def test_a_column_whose_values_name_splits_is_the_splits(tmp_path, column):
    table = load(tmp_path, f"path,label,{column}\nimg/1.jpg,cup,Training\nimg/2.jpg,fork,train\nimg/3.jpg,cup,TEST\n")

    assert table.split.tolist() == ["train", "train", "test"]
    assert table.notes[1] == f"the column {column!r} is read as the splits, which its values name"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,label\nimg/1.jpg,a\n2.jpg,a\n,b\n", "no such file in 2 of 3 rows: line 3: '2.jpg'; line 4: ''"),
        ("path,label\nimg/1.jpg,\n", "no label in 1 of 1 rows: line 2: ''. Remove the rows, or give them a label"),
        ("path,label\nimg/1.jpg,a\nimg/2.jpg,NaN\n", "no label in 1 of 2 rows: line 3: 'NaN'"),
        (
            "path,label\nimg/1.jpg,a|b\nimg/2.jpg,a\n",
            "where one is needed in 1 of 2 rows: line 2",
        ),
        ("path,label,split\nimg/1.jpg,a,train\nimg/2.jpg,a,7\n", "not train, val or test in 1 of 2 rows: line 3: '7'"),
        ("path,label\n", "the table has no rows"),
        ("path,label\nimg/1.jpg,a,b\n", "line 2 has 3 fields, and the header has 2"),
        ("path,label\nimg/1.jpg,a\nimg/2.jpg\n", "line 3 has 1 fields, and the header has 2"),
        ("", "the table is empty"),
        ("\n\n", "the table is empty"),
        ('path,label\nimg/1.jpg,a\nimg/2.jpg,"b\nimg/3.jpg,c\n', 'line 3: a quotation mark (") that is not closed'),
        (
            'path,label\nimg/1.jpg,"a\nimg/2.jpg,b\nimg/3.jpg,"c\n',
            'line 2: a quotation mark (") inside a value; write it twice, and quotation marks around the value',
        ),
        (
            'path,label\n"img/1.jpg,a\nimg/2.jpg",b,c\n',
            'line 2 has 3 fields, and the header has 2; a quotation mark (") that is not closed? It goes on to line 3',
        ),
        ('path,label\n"x\ny",a\n\nnone.jpg,b\n', "no such file in 2 of 2 rows: line 2: 'x y'; line 5: 'none.jpg'"),
        (f"path,label\n{' '.join(['12'] * 784)},cup\n", "line 2: the table holds pixel values, not image files"),
        (f"path,label\n{'x' * 5000},cup\n", "no such file in 1 of 1 rows: line 2: 'xxx"),
        ("path,label\na\0b,cup\n", "no such file in 1 of 1 rows: line 2: 'a\ufffdb'"),
        (b"path,label\nimg/1.jpg,caf\xe9\n", "line 2 is not UTF-8 text (byte 0xe9); save the table as UTF-8"),
        ("path,label\nimg/1.jpg,cup\nimg/1.jpg,fork\n", "'img/1.jpg' has label 'cup' in line 2 and 'fork' in line 3"),
        (
            "path,label,split\nimg/1.jpg,cup,train\nimg/2.jpg,cup,train\n./img/1.jpg,cup,test\n",
            "'img/1.jpg' has split 'train' in line 2 and 'test' in line 4; keep one of the rows",
        ),
    ],
)
def test_errors_name_the_line(tmp_path, content, message):
    with pytest.raises(DataError) as caught:
        load(tmp_path, content)
    assert str(caught.value).startswith(f"{tmp_path}/all.csv: ")
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("img\\1.jpg", r"Write / in place of \ in the paths"),
        ("IMG/1.JPG", "There is img/1.jpg: write the names as they are on the disk"),
        ("img\\1.JPG", "There is img/1.jpg: write the names as they are on the disk"),
        ("img/1", "There is img/1.jpg: write the names as they are on the disk"),
        ("img/1.png", "There is img/1.jpg: write the names as they are on the disk"),
        ("https://a.org/1.jpg", "These are addresses: download the images first"),
        ("photos/1.jpg", "Paths are relative to the table's folder"),
    ],
)
def test_paths_that_nearly_fit(tmp_path, name, way_out):
    with pytest.raises(DataError) as caught:
        load(tmp_path, f"path,label\n{name},cup\n")
    assert str(caught.value).endswith(f". {way_out}")


def test_paths_relative_to_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tables").mkdir()
    Path("tables/all.csv").write_text(ROWS)

    with pytest.raises(DataError, match="relative to the table's folder, tables: move the table, or write whole paths"):
        Manifest(Path("tables/all.csv")).load()


@pytest.mark.parametrize("other", ["img/1.jpg", "./img//1.jpg", "{folder}/img/1.jpg", "linked/1.jpg"])
def test_one_file_in_two_classes_is_refused_however_its_path_is_written(tmp_path, monkeypatch, other):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "linked").symlink_to("img")

    for folder in (tmp_path, Path()):
        with pytest.raises(DataError, match="has label 'cup' in line 2 and 'fork' in line 5; keep one of the rows"):
            load(folder, ROWS + f"{other.format(folder=tmp_path)},fork\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "img/1.jpg,cup\nimg/2.jpg,fork\n",
            "the first line has to name the columns; other names: data.columns.path=NAME",
        ),
        ("path,cup,fork\nimg/1.jpg,1,0\nimg/2.jpg,0,1\n", "write the class names into one column, label"),
        ("path,label\nimg,cup\n", "That is a folder"),
        ("path,label,split\nimg/1.jpg,cup,\n", "Write one of them in every row, or remove the column"),
        (b"PK\x03\x04" + b"\0" * 60, "is an Excel or a zip file, not a table of text"),
        (gzip.compress(ROWS.encode(), mtime=0), "is a gzip file, not a table of text"),
    ],
)
def test_what_is_nearly_a_table_has_a_way_out(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        load(tmp_path, content)


def test_equal_rows_are_one_image(tmp_path):
    body = ROWS.partition("\n")[2]

    table = load(tmp_path, ROWS + body + body.replace("img/", "./img/"))

    assert read(table) == PLAIN
    assert table.notes[1:] == ("all.csv: 6 rows name a file that is named before: merged",)


def test_many_bad_rows_are_counted(tmp_path):
    manifest = tmp_path / "all.parquet"
    parquet.write_table(pa.table({"path": [f"{n}.jpg" for n in range(9)], "label": ["a"] * 9}), manifest)

    with pytest.raises(DataError, match=r"9 of 9 rows: row 0: '0\.jpg'; .*row 4: '4\.jpg'; and 4 more\. Paths are"):
        Manifest(manifest).load()


def test_what_is_no_table(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        Manifest(tmp_path / "missing.csv").load()
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match=r"pipe.csv: cannot be read as a table: a named pipe, not a regular file"):
        Manifest(tmp_path / "pipe.csv").load()
    (tmp_path / "a.parquet").write_text("path,label\n")
    with pytest.raises(DataError, match=r"a.parquet: cannot be read as a Parquet table"):
        Manifest(tmp_path / "a.parquet").load()
    with (tmp_path / "long.csv").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(DataError, match="the file is 1,073,741,824 bytes long, and at most 536,870,912 are read"):
        Manifest(tmp_path / "long.csv").load()
