"""Which test images a report shows with their nearest texts, and what it says of them."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.nn import functional as F

from fedlens.tracking import nearest_texts
from fedlens.tracking.nearest_texts import choose, examples
from fedlens.tracking.pictures import GALLERY
from fedlens.training.retrieval import Encoded


def test_half_are_found_and_all_classes_have_their_turn() -> None:
    labels = [number % 10 for number in range(200)]
    found = [number % 3 == 0 and number % 10 != 0 for number in range(200)]  # none of class 0
    rows = choose(labels, found)
    assert len(set(rows)) == len(rows) == GALLERY
    assert Counter(found[row] for row in rows) == {True: GALLERY // 2, False: GALLERY // 2}
    assert {labels[row] for row in rows} == set(range(10))
    assert [labels[row] for row in rows] == sorted(labels[row] for row in rows)


@pytest.mark.parametrize(("right", "wrong"), [(1, 39), (40, 0), (0, 40), (39, 1), (3, 2)])
def test_where_there_are_few_of_one_kind_the_other_fills_up(right: int, wrong: int) -> None:
    found = [True] * right + [False] * wrong
    rows = choose([0] * len(found), found)
    assert len(set(rows)) == len(rows) == min(GALLERY, len(found))
    assert sum(found[row] for row in rows) >= min(right, GALLERY // 2)
    assert sum(not found[row] for row in rows) >= min(wrong, GALLERY // 2)


def test_what_is_told_of_a_row_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest_texts, "SHOWN", 2)
    images = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.1], [-1.0, -0.1]]), dim=1)
    different = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    same = torch.tensor([0, 1, 2, 0])  # the last row, of the other class, has the text of the first
    texts = ["red  shoe", "\N{LEFT-TO-RIGHT OVERRIDE}bag", "棕色手提包" * 100, "red shoe"]
    rows = Encoded(images, different[same], same)
    told = dict(examples(rows, texts, [0, 0, 1, 1], ["shoe", "bag"]))
    assert [found["class"] for _, found in sorted(told.items())] == ["shoe", "shoe", "bag", "bag"]
    near = {row: [(one["text"], one["place"], one["own"]) for one in found["nearest"]] for row, found in told.items()}
    bag = "\N{REPLACEMENT CHARACTER}bag"
    assert near[0] == [("red shoe", 1, True), (bag, 2, False)]
    assert near[1] == [("red shoe", 1, False), (bag, 2, True)]
    long = near[2][0][0]
    assert long.endswith("…")
    assert len(long) == nearest_texts.LONGEST
    assert near[3] == [(long, 1, False), (bag, 2, False), ("red shoe", 3, True)]
    classes = {row: [one["class"] for one in found["nearest"]] for row, found in told.items()}
    assert classes[1] == ["shoe", "shoe"]
    assert classes[3] == ["bag", "shoe", "bag"]  # the text of both classes is of the row's own
    assert told[0]["nearest"][0]["similarity"] == 1
