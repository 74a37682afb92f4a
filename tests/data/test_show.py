from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console
from tests.photos import photos

from fedlens.data.cache import Decoding
from fedlens.data.readable import readable
from fedlens.data.show import Holdings, of_run, of_table, partition_figure, table
from fedlens.data.sources.clients import ClientFolders
from fedlens.data.sources.imagefolder import ImageFolder
from fedlens.data.sources.sample import Sample
from fedlens.data.types import ImageTable
from fedlens.errors import DataError

HELD = Holdings(("client1", "client2"), ("cat", "dog"), np.array([[3, 0], [1, 1200]]), np.array([5, 5]))


def printed(held, width=140):
    console = Console(file=io.StringIO(), width=width)
    console.print(table(held, width))
    return console.file.getvalue()


def test_counts_of_a_folder_are_made_without_opening_an_image(tmp_path):
    for name in ("client2/cat/1.png", "client10/dog/1.png", "client10/cat/2.png", "test/dog/9.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"no image at all")
    held = of_table(ClientFolders(tmp_path).load())
    assert (held.clients, held.class_names) == (("client2", "client10"), ("cat", "dog"))
    assert held.counts.tolist() == [[1, 0], [1, 1]]
    assert held.test.tolist() == [0, 1]


@pytest.mark.parametrize("images", ["files", "pixels"])
def test_what_a_run_would_leave_out_is_not_counted(tmp_path, images):
    table = ImageFolder(photos(tmp_path / "photos", each=3)).load()
    (tmp_path / "photos" / "cup" / "1.png").write_bytes(b"no image at all")
    if images == "pixels":
        table = ImageTable(np.zeros((2, 4, 4, 3), np.uint8), np.array([0, 1]), ("a", "b"))
    held = of_table(readable(table, Decoding(8, cache_dir=tmp_path / "cache")))
    if images == "pixels":
        assert (held.counts.tolist(), held.notes) == ([[1, 1]], ())
        return
    assert held.counts.tolist() == [[2, 3, 3]]
    assert held.notes[1].startswith("left out 1 of 9 images that cannot be read, such as")


def test_counts_of_a_run(tmp_path):
    with pytest.raises(DataError, match=r"partition\.json cannot be read"):
        of_run(tmp_path)
    record = {
        "class_names": ["cat", "dog"],
        "clients": {"a": {"train": [1, 2], "val": [0, 1], "test": [1, 0]}},
        "test": [3, 3],
    }
    (tmp_path / "partition.json").write_text(json.dumps(record))
    held = of_run(tmp_path)
    assert (held.counts.tolist(), held.test.tolist()) == ([[2, 3]], [3, 3])


def test_counts_of_the_sample():
    held = of_table(Sample().load())
    assert held.counts.shape == (10, 10)
    assert held.test.tolist() == [100] * 10


def test_rows_of_nobody_stand_apart():
    clients = np.array(["b", "", "b"])
    held = of_table(ImageTable([], np.array([0, 1, 1]), ("x", "y"), clients=clients))
    assert dict(zip(held.clients, held.counts.tolist(), strict=True)) == {"(no client)": [0, 1], "b": [1, 1]}
    assert held.test is None


def test_table_has_a_column_for_each_class():
    lines = printed(HELD).splitlines()
    assert "1,204 images of 2 classes at 2 clients" in lines[0]
    assert ["client1", "3", "3", "·"] in [line.split() for line in lines]
    assert ["test", "set", "10", "5", "5"] in [line.split() for line in lines]


def test_table_of_many_is_short():
    counts = np.ones((100, 50), np.int64)
    counts[:, 7] = 51
    names = tuple(f"class{number}" for number in range(50))
    text = printed(Holdings(tuple(f"c{number}" for number in range(100)), names, counts))
    assert "60 more" in text
    assert "class7 (51%)" in text
    assert len(text.splitlines()) < 60


def test_class_names_that_do_not_fit_stand_below_whole():
    names = tuple(f"a-long-class-name-{number}" for number in range(10))
    held = Holdings(("client1",), names, np.full((1, 10), 100))
    lines = printed(held, 80).splitlines()
    assert ["client", "images", *(f"({number})" for number in range(1, 11))] in [line.split() for line in lines]
    assert lines[-1].split() == ["(10)", names[-1]]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(("clients", "classes"), [(1, 2), (2, 10), (100, 10), (30, 1000)])
def test_figures(clients, classes):
    counts = np.random.default_rng(0).integers(0, 50, (clients, classes))
    names, labels = [f"c{n}" for n in range(clients)], [f"class {n}" for n in range(classes)]
    figure = partition_figure(counts, names, labels)
    figure.canvas.draw()
    axes = figure.axes[0]
    assert np.array_equal(axes.images[0].get_array(), counts)
    assert len(axes.get_yticklabels()) == clients
    assert len(axes.get_xticklabels()) <= 60
    assert len(axes.texts) == (counts.size if counts.size <= 400 else 0)


def test_names_are_text_whatever_they_hold(tmp_path):
    names = ("$x_$ [red] <b>", "[/] a$")
    held = Holdings(names, names, np.eye(2, dtype=np.int64))
    assert "[/] a$" in printed(held)


def test_what_clients_have_is_shown_where_there_are_texts(tmp_path):
    images = [tmp_path / "1.png", None, tmp_path / "2.png", tmp_path / "3.png", None]
    texts = ["", "a", "b", "", "c"]
    owners, splits = np.array(["n", "s", "e", "e", "n"]), np.array(["train"] * 4 + ["test"])
    both = ImageTable(images, np.array([0, 1, 0, 1, 0]), ("x", "y"), clients=owners, split=splits, texts=texts)

    held = of_table(both)

    assert dict(zip(held.clients, held.kinds, strict=True)) == {"n": "image only", "s": "text only", "e": "both"}
    lines = [line.split() for line in printed(held).splitlines()]
    assert " ".join(lines[0]).startswith("4 rows of 2 classes at 3 clients")
    assert ["client", "has", "rows", "x", "y"] in lines
    assert ["s", "text", "only", "1", "·", "1"] in lines
    assert ["test", "set", "1", "1", "·"] in lines
    many = Holdings(tuple(map(str, range(41))), ("x",), np.ones((41, 1), np.int64), kinds=("both",) * 41)
    assert ["1", "more", "1", "1"] in [line.split() for line in printed(many).splitlines()]


def test_texts_of_images_that_can_be_read_stay(tmp_path):
    files = [photos(tmp_path / "photos", each=1) / name / "0.png" for name in ("cup", "fork", "plate")]
    files[0].write_bytes(b"no image at all")
    both = ImageTable([*files, None], np.array([0, 0, 1, 1]), ("x", "y"), texts=["gone", "", "b", "c"])
    left = readable(both, Decoding(8, cache_dir=tmp_path / "cache"))
    assert (left.texts, left.has_image.tolist()) == (["", "b", "c"], [True, True, False])
    assert left.notes[0].startswith("left out 1 of 3 images that cannot be read")
