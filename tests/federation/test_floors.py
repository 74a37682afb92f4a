"""Accuracies without learning, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fedlens.core.floors import Population, own_majority
from fedlens.core.types import ClientInfo

NORTH = ClientInfo("north", 0, {"train": (6, 1, 0), "val": (0, 0, 0), "test": (3, 1, 0)})
SOUTH = ClientInfo("south", 1, {"train": (0, 3, 4), "val": (0, 0, 0), "test": (0, 2, 2)})
NOTHING = ClientInfo("nothing", 2, {"train": (0, 0, 0), "val": (0, 0, 0), "test": (1, 0, 0)})


def test_the_shared_model_is_held_against_everybodys_commonest_class() -> None:
    floors = Population([NORTH, SOUTH])  # training images 6, 4, 4: class 0
    assert (floors.label, floors.chance) == (0, pytest.approx(1 / 3))
    # 4 images of class 0, 3 of class 1, 3 of class 2, however they were predicted
    assert floors.of_confusion(np.array([[0, 4, 0], [1, 1, 1], [3, 0, 0]])) == 0.4


def test_a_personal_model_is_held_against_its_clients_own_commonest_class() -> None:
    assert own_majority(NORTH, "test") == 0.75
    assert own_majority(SOUTH, "test") == 0.5  # class 2, of 4 images


def test_what_is_not_counted_has_no_floor() -> None:
    assert own_majority(NOTHING, "test") is None
    assert own_majority(NORTH, "val") is None
    assert Population([]).chance is None
    assert Population([NOTHING]).label is None
    assert Population([]).of_confusion(np.eye(2, dtype=np.int64)) is None
