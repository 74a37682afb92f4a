"""Texts in a manifest: what is read, what is refused, and that no message shows one."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from fedlens.data.sources.manifest import Manifest
from fedlens.errors import DataError

SECRET = "Frau Maier Fieber seit Montag"


@pytest.fixture(autouse=True)
def photos(tmp_path):
    (tmp_path / "img").mkdir()
    for number in (1, 2, 3):
        (tmp_path / "img" / f"{number}.jpg").touch()


def load(tmp_path, content, **columns):
    file = tmp_path / "all.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Manifest(file, columns).load()


def refused(tmp_path, content, **columns) -> str:
    """The message, which is one line and shows nothing of a text."""
    with pytest.raises(DataError) as caught:
        load(tmp_path, content, **columns)
    message = str(caught.value)
    assert message.isprintable()
    assert not any(word in message for word in ("Maier", "Fieber", "Montag"))
    return message


def test_a_row_has_an_image_a_text_or_both(tmp_path):
    table = load(tmp_path, "path,label,text\nimg/1.jpg,a,a cup\nimg/2.jpg,b,\n,b,a fork\n,a,a fork\n")

    assert [path and path.name for path in table.images] == ["1.jpg", "2.jpg", None, None]
    assert table.texts == ["a cup", "", "a fork", "a fork"]  # rows without a file are never one row
    assert (table.has_image.tolist(), table.has_text.tolist()) == (
        [True, True, False, False],
        [True, False, True, True],
    )
    assert table.channels == 3
    assert "read as a table of 4 rows (2 with an image, 3 with a text, 1 with both): 2 classes" in table.notes[0]
    assert "a cup" not in repr(table)


@pytest.mark.parametrize("header", ["label,text", "path,label,text", "id,label,text"])
def test_a_table_of_texts_alone(tmp_path, header):
    first = "7," if header.startswith("id") else "," if header.startswith("path") else ""
    table = load(tmp_path, f"{header}\n{first}a,one\n{first}b,two\n")

    assert (table.images, table.texts, table.channels) == ([None, None], ["one", "two"], 1)
    assert not table.has_image.any()
    noted = "the column 'id' is not read; if it names image files: data.columns.path=id"
    assert table.notes[1:] == ((noted,) if header.startswith("id") else ())


def test_paths_under_another_name_are_not_lost_beside_texts(tmp_path):
    message = refused(tmp_path, f"filename,label,text\nimg/1.jpg,a,{SECRET}\n")
    assert message.endswith("no column 'path' among filename, label, text; name it: data.columns.path=filename")


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("cafe\N{COMBINING ACUTE ACCENT}", "café"),  # NFC
        ('"one\n\ntwo\tthree\r\n  four "', "one two three four"),
        ("bell\x07\x1b[31m\x85red\x7f", "bell [31m red"),
        ("👩‍🔬 looks 🇩🇪", "👩‍🔬 looks 🇩🇪"),
        ("一只猫坐在垫子上", "一只猫坐在垫子上"),
        ("NaN", ""),
        ("none", "none"),
    ],
)
def test_texts_have_one_form(tmp_path, given, read):
    assert load(tmp_path, f"path,label,text\nimg/1.jpg,a,{given}\nimg/2.jpg,b,x\n").texts == [read, "x"]


def test_a_column_of_empty_texts_is_no_text(tmp_path):
    table = load(tmp_path, "path,label,text\nimg/1.jpg,a,\nimg/2.jpg,b, \n")
    assert table.texts is None
    assert "a table of 2 images:" in table.notes[0]


def test_texts_of_parquet(tmp_path):
    file = tmp_path / "all.parquet"
    columns = {"path": ["img/1.jpg", None, "img/2.jpg"], "label": [0, 1, 1], "Report": ["a", "b", None]}
    parquet.write_table(pa.table(columns), file)

    table = Manifest(file, {"text": "Report"}).load()

    assert (table.texts, table.has_image.tolist()) == (["a", "b", ""], [True, False, True])


@pytest.mark.parametrize("name", ["caption", "Description", "report", "sentence", "title", "Report Text"])
def test_another_column_that_may_hold_texts_is_noted_and_not_read(tmp_path, name):
    table = load(tmp_path, f"path,label,{name}\nimg/1.jpg,a,{SECRET}\n")

    quoted = f"'{name}'" if " " in name else name
    assert table.texts is None
    assert table.notes[1:] == (
        f"the column {name!r} is not read; if it holds a text of each row: data.columns.text={quoted}",
    )
    assert load(tmp_path, f"path,label,{name}\nimg/1.jpg,a,{SECRET}\n", text=name).texts == [SECRET]


def test_several_texts_of_a_file_are_joined(tmp_path):
    rows = ["img/1.jpg,a,first", "img/2.jpg,b,other", "./img/1.jpg,a,second", "img/1.jpg,a,first", "img/1.jpg,a,"]
    table = load(tmp_path, "\n".join(["path,label,text", *rows, "img/2.jpg,b,other", ",b,first", ",b,first"]))

    assert table.texts == ["first second", "other", "first", "first"]
    assert table.notes[1:] == (
        "all.csv: 4 rows name a file that is named before: merged; 1 file with several texts: joined",
    )
    same = load(tmp_path, "path,label,text\nimg/1.jpg,a,x\nimg/1.jpg,a,x\nimg/2.jpg,b,\n")
    assert same.notes[1:] == ("all.csv: 1 rows name a file that is named before: merged",)


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        (
            f"path,label,text\nimg/1.jpg,a,{SECRET}\n,a,\n,b,\x07 \n",
            {},
            "neither an image nor a text in 2 of 3 rows: line 3; line 4. Give each row a path, a text, or both, or "
            "remove it",
        ),
        (f"label,text\na,{SECRET}\nb,\n", {}, "neither an image nor a text in 1 of 2 rows: line 3."),
        ("path,label\nimg/1.jpg,a\n,b\n", {}, "no such file in 1 of 2 rows: line 3: ''. Remove the rows, or give them"),
        (f"path,label,text\nimg/9.jpg,a,{SECRET}\n", {}, "no such file in 1 of 1 rows: line 2: 'img/9.jpg'"),
        (f"path,label,note\nimg/1.jpg,a,{SECRET}\n", {"text": "report"}, "has no column 'report' among path, label"),
        (f"path,label,text,text\nimg/1.jpg,a,b,{SECRET}\n", {}, "2 columns are called 'text'"),
        (f"label,caption\na,{SECRET}\n", {}, "; a table of texts alone: data.columns.text=caption"),
        (f"path,label,text\nimg/1.jpg,a,{SECRET}\n".encode("utf-16-le")[:-1], {}, "is not UTF-16-LE text"),
        (f"path,label,text\nimg/1.jpg,a,{SECRET} für\n".encode("latin-1"), {}, "line 2 is not UTF-8 text (byte 0xfc)"),
        (f'path,label,text\nimg/1.jpg,a,"{SECRET}\n', {}, 'line 2: a quotation mark (") that is not closed'),
        (f"path,label,text\nimg/1.jpg,a,{SECRET}, ja\n", {}, "line 2 has 4 fields, and the header has 3"),
        (f"img/1.jpg,a,{SECRET}\nimg/2.jpg,b,y\n", {}, "no column 'label' among img/1.jpg, a, (29 characters)"),
        (f"path,label,text\nimg/1.jpg,a,{SECRET}\nimg/1.jpg,b,{SECRET}\n", {}, "has label 'a' in line 2 and 'b' in"),
    ],
)  # fmt: skip
def test_refusals_name_the_line_and_show_no_text(tmp_path, content, columns, message):
    assert message in refused(tmp_path, content, **columns)


@pytest.mark.parametrize("length", [100_001, 10_000_000])
def test_a_text_that_is_too_long_is_one_clear_line(tmp_path, length):
    content = f"path,label,text\nimg/1.jpg,a,{SECRET}\nimg/2.jpg,b,{'Fieber ' * (length // 7 + 1)}\n"
    message = refused(tmp_path, content)
    assert len(message) < 400
    assert "line 3" in message
    assert "horten" in message
    parquet.write_table(pa.table({"label": ["a"], "text": ["x" * length]}), tmp_path / "all.parquet")
    with pytest.raises(DataError, match=r"a text of more than 100,000 characters in 1 of 1 rows: row 0. Shorten them"):
        Manifest(tmp_path / "all.parquet").load()


def test_the_longest_text_is_read_and_all_texts_of_a_file_count_together(tmp_path):
    rows = "path,label,text\nimg/1.jpg,a,{}\nimg/2.jpg,b,\n"
    assert len(load(tmp_path, rows.format("x" * 100_000)).texts[0]) == 100_000
    assert "line 2" in refused(tmp_path, rows.format("x" * 60_000) + f"img/1.jpg,a,{'y' * 60_000}\n")


def test_other_columns_of_texts_alone(tmp_path):
    table = load(tmp_path, "label,text,client,split,group\na,x,north,train,p\nb,y,south,test,\n")
    assert (table.clients.tolist(), table.split.tolist()) == (["north", "south"], ["train", "test"])
    assert np.array_equal(table.groups, ["p", "(row 1)"])
