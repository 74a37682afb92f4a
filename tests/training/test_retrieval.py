"""Recall by hand: whose text is found, and what counts as found."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from fedlens.training.retrieval import nearest_texts, places_of_own


def test_places_by_hand() -> None:
    queries = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]), dim=1)
    candidates = F.normalize(torch.tensor([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0]]), dim=1)
    # the first query is nearer to the second candidate; the second query to the first one, and as near to the third
    assert places_of_own(queries, candidates, torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2])).tolist() == [1, 2, 0]


def test_rows_with_equal_texts_are_right_for_each_other() -> None:
    queries = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]), dim=1)
    candidates = F.normalize(torch.tensor([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0]]), dim=1)
    assert places_of_own(queries, candidates, torch.tensor([0, 0, 1]), torch.tensor([0, 0, 1])).tolist() == [0, 0, 0]


def test_a_collapsed_model_finds_nothing() -> None:
    same = torch.ones(5, 1)
    assert places_of_own(same, same, torch.arange(5), torch.arange(5)).tolist() == [4] * 5


def test_what_is_no_number_is_not_found() -> None:
    nothing = torch.full((3, 1), torch.nan)
    assert places_of_own(nothing, nothing, torch.arange(3), torch.arange(3)).tolist() == [2] * 3


def test_the_nearest_texts_and_the_place_of_its_own() -> None:
    texts = F.normalize(torch.tensor([[1.0, 0.1], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [1.0, 0.0]]), dim=1)
    image = torch.tensor([1.0, 0.0])
    found = [(near.text, near.place) for near in nearest_texts(image, texts, own=2, count=3)]
    assert found == [(4, 1), (2, 2), (0, 3)]  # another as near comes first
    found = [(near.text, near.place) for near in nearest_texts(image, texts, own=1, count=2)]
    assert found == [(2, 1), (4, 2), (1, 5)]
    last = nearest_texts(image, texts, own=3, count=1)[-1]
    assert (last.place, round(last.similarity, 4)) == (4, 0.7071)
    assert [near.place for near in nearest_texts(image, texts[:1], own=0, count=3)] == [1]
