"""partition.html: every number, in a small file that needs nothing but the picture beside it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from fedlens.data.show import Holdings
from fedlens.reports.partition import render, write_partition


def held(clients: int, classes: int) -> Holdings:
    counts = np.random.default_rng(0).integers(0, 20_000, (clients, classes))
    names = tuple(f"hospital {number:04}" for number in range(clients))
    return Holdings(names, tuple(f"class {number}" for number in range(classes)), counts)


def cells(page: str) -> list[list[str]]:
    rows = re.search(r"<table.*?</table>", page, re.S)
    assert rows
    return [re.sub(r"<[^>]*>", "\t", row).split("\t") for row in rows[0].split("<tr>")[1:]]


def test_the_numbers_stand_in_a_table(tmp_path: Path) -> None:
    own = Holdings(("<b> & co", "west"), ("cat", "$dog$"), np.array([[3, 0], [1200, 1]]), np.array([5, 5]))
    png, html = write_partition(own, tmp_path / "new")
    page = html.read_text(encoding="utf-8")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "1,204 images · 2 clients · 2 classes" in page
    assert [[cell for cell in row if cell] for row in cells(page)] == [
        ["client", "images", "cat", "$dog$"],
        ["&lt;b&gt; &amp; co", "3", "3"],
        ["west", "1,201", "1,200", "1"],
        ["all clients", "1,204", "1,203", "1"],
        ["test set", "10", "5", "5"],
    ]


@pytest.mark.parametrize(("clients", "classes"), [(100, 60), (3000, 2), (1000, 10), (100, 1000), (1, 2)])
def test_the_page_stays_small_and_fetches_nothing(clients: int, classes: int) -> None:
    page = render(held(clients, classes), "partition.png")
    assert len(page.encode()) < 200_000
    assert re.findall(r"""(?:src|href)="?([^">]+)""", page) == (["partition.png"] if classes > 60 else [])
    assert not re.search(r"https?://|plotly", page)


def test_clients_beyond_the_rows_are_added_up() -> None:
    many = held(1000, 12)  # 6400 cells are 400 rows of 12 classes, a name and a total as wide as 4
    *_, more, everybody = cells(render(many, "partition.png"))
    assert more[1] == "600 more"
    assert everybody[1:3] == ["all clients", f"{many.counts.sum():,}"]
    assert more[2] == f"{many.counts[400:].sum():,}"
