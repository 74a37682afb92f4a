"""Classes that nobody trains on are in no client, and their test rows are kept aside."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedlens.data.held_out import held_out_alone, hold_out, with_held_out
from fedlens.data.types import ClientRows, DataReport, FederatedData
from fedlens.errors import ConfigError, DataError

LABELS = [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3]


def rows(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


@pytest.fixture
def data() -> FederatedData:
    clients = (
        ClientRows("a", rows(0, 1, 2), rows(3), rows()),
        ClientRows("b", rows(3), rows(), rows(5)),
        ClientRows("c", rows(4, 6), rows(), rows(7)),
    )
    names, report = ("apple", "boat", "cup", "dog"), DataReport(12)
    images = torch.zeros(12, 1, 1, 1, dtype=torch.uint8)
    return FederatedData(images, torch.tensor(LABELS), names, clients, rows(8, 9, 10, 11), report, "key")


def names_of(data: FederatedData, which: np.ndarray) -> list[str]:
    return [data.class_names[label] for label in data.labels[which].tolist()]


def test_no_client_has_a_held_out_class(data: FederatedData) -> None:
    left = hold_out(data, ["boat", "dog"])
    assert left.class_names == ("apple", "cup")
    assert {one.name: one.train.tolist() for one in left.clients} == {"a": [0, 2], "c": [4, 6]}
    assert all(not len(one.val) and not len(one.test) for one in left.clients)
    assert names_of(left, left.test) == ["apple", "cup"]
    assert left.report.notes[0] == (
        "left out 6 rows of held-out classes boat, dog, and 1 client with no other training row"
    )


def test_their_test_rows_are_kept_with_their_names(data: FederatedData) -> None:
    left = hold_out(data, ["dog", "boat"])
    every, alone = with_held_out(left), held_out_alone(left)
    assert names_of(every, every.test) == names_of(alone, alone.test) == ["boat", "dog"]
    assert every.class_names == ("apple", "cup", "dog", "boat")
    assert alone.class_names == ("dog", "boat")
    assert names_of(every, left.test) == ["apple", "cup"]


def test_without_names_nothing_changes(data: FederatedData) -> None:
    assert hold_out(data, ()) is data


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["boot"], "data.held_out = 'boot': the data has no such class. Did you mean boat?"),
        (["BOAT"], "Did you mean boat?"),
        (["xyz"], "The classes are apple, boat, cup, dog"),
        (["boat", "boat"], "named twice"),
        (["boat", "dog", "cup"], "of 4 classes 1 would be left"),
    ],
)
def test_what_cannot_be_held_out(data: FederatedData, names: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        hold_out(data, names)
    assert message in str(caught.value)


def test_somebody_must_have_another_class(data: FederatedData) -> None:
    with pytest.raises(DataError, match="no client has an image of another class"):
        hold_out(replace(data, clients=(data.clients[1],)), ["dog"])
