"""Rows without a label: which are read, and that they train and are never tested."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.data.test_held_out import data as data  # noqa: PLC0414 - a fixture
from tests.data.test_modalities import federated, without

from fedlens.core.labels import UNLABELLED, counted
from fedlens.data.division import Columns, DivisionPlan, divide
from fedlens.data.export import export
from fedlens.data.held_out import hold_out
from fedlens.data.modalities import labelled
from fedlens.data.partition.dirichlet import Dirichlet
from fedlens.data.partition.natural import Natural
from fedlens.data.show import of_table
from fedlens.data.site import relabelled
from fedlens.data.sources.manifest import Manifest
from fedlens.data.splits import client_splits, global_test
from fedlens.data.types import FederatedData, ImageTable
from fedlens.errors import DataError

HALF = np.where(np.arange(200) % 2, UNLABELLED, np.arange(200) // 2 % 2)
"""Labels of 200 rows: every second one has none."""


def load(folder: Path, content: str) -> ImageTable:
    for number in range(1, 6):
        (folder / f"{number}.jpg").touch()
    (folder / "all.csv").write_text(content, encoding="utf-8")
    return Manifest(folder / "all.csv").load()


def test_a_row_with_image_and_text_needs_no_label(tmp_path: Path) -> None:
    table = load(tmp_path, "path,text,label\n1.jpg,one,b\n2.jpg,two,\n3.jpg,three,nan\n4.jpg,,a\n")
    assert table.class_names == ("a", "b")
    assert table.labels.tolist() == [1, UNLABELLED, UNLABELLED, 0]
    assert "4 rows (4 with an image, 3 with a text, 3 with both, 2 without a label)" in table.notes[0]
    shown = of_table(table)
    assert shown.class_names == ("a", "b", "no label")
    assert shown.counts.tolist() == [[1, 1, 2]]


def test_other_rows_without_a_label_are_of_no_use_and_left_out(tmp_path: Path) -> None:
    rows = "1.jpg,one,b,train\n2.jpg,,,train\n,three,,train\n4.jpg,four,,test\n5.jpg,five,,val\n3.jpg,three,,train\n"
    table = load(tmp_path, f"path,text,label,split\n{rows}")
    assert table.labels.tolist() == [0, UNLABELLED]
    assert table.texts == ["one", "three"]
    told = "left out 4 rows without a label that lack an image or a text, or are not for training"
    assert told in table.notes


def test_in_a_table_of_images_a_missing_label_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no label in 1 of 2 rows: line 3.*Remove the rows, or give them a label"):
        load(tmp_path, "path,label\n1.jpg,b\n2.jpg,\n")


def test_they_train_and_are_never_tested() -> None:
    rest, test = global_test(HALF, None, 0.2, seed=0)
    assert len(test) == 20
    assert (HALF[test] != UNLABELLED).all()
    assert sorted([*rest, *test]) == list(range(200))
    (one,) = client_splits({"a": np.arange(200)}, HALF, None, validation=0.1, test=0.2, seed=0)
    assert (len(one.val), len(one.test)) == (10, 20)
    assert (HALF[np.concatenate([one.val, one.test])] != UNLABELLED).all()
    assert sorted([*one.train, *one.val, *one.test]) == list(range(200))


def test_they_leave_with_a_group_that_is_held_out() -> None:
    groups = np.array([f"patient{row // 10}" for row in range(200)])
    rest, test = global_test(HALF, groups, 0.2, seed=0)
    (one,) = client_splits({"a": rest}, HALF, groups, validation=0.2, test=0.0, seed=0)
    assert len(test)
    assert len(one.val)
    for trained, held in ((rest, test), (one.train, one.val)):
        assert (HALF[held] != UNLABELLED).all()
        assert not set(groups[trained]) & set(groups[held])


@pytest.mark.parametrize("scheme", [Dirichlet(alpha=0.3, min_size=1), Natural()])
def test_a_federation_has_all_of_them(scheme: Dirichlet | Natural) -> None:
    owners = np.array([f"site{row % 3}" for row in range(200)])
    plan = DivisionPlan(scheme, clients=3, validation=0.1, client_test=0.1, test=0.1, seed=0)
    division = divide(Columns(HALF, ("x", "y"), clients=owners), plan)
    trained = np.concatenate([client.train for client in division.clients])
    assert (HALF[trained] == UNLABELLED).sum() == 100
    held = np.concatenate([division.test, *(rows for one in division.clients for rows in (one.val, one.test))])
    assert (HALF[held] != UNLABELLED).all()


def test_who_learns_from_labels_has_none_of_them() -> None:
    labels = federated(2).labels.clone()
    labels[[0, 1, 4]] = UNLABELLED
    data = federated(2, labels=labels, has_text=without(12, 4))
    pairs, alone = labelled(data, pairs=True), labelled(data, pairs=False)
    assert [one.train.tolist() for one in pairs.clients] == [[0, 1], [5]]
    assert pairs.report.notes == ("left out 1 row without a label and without image or text",)
    assert [one.train.tolist() for one in alone.clients] == [[5]]
    assert alone.report.notes == (
        "left out 3 rows without a label, for the model learns from labels, and 1 client with no other training row",
    )
    whole = federated(2)
    assert labelled(whole, pairs=False) is whole
    nobody = replace(data, labels=torch.full((12,), UNLABELLED))
    with pytest.raises(DataError, match="no client has a training row with a label"):
        labelled(nobody, pairs=False)


def test_they_may_show_a_held_out_class(data: FederatedData) -> None:
    labels = data.labels.clone()
    labels[6] = UNLABELLED
    left = hold_out(replace(data, labels=labels), ["boat", "dog"])
    assert {one.name: one.train.tolist() for one in left.clients} == {"a": [0, 2], "c": [4]}
    assert "of held-out classes boat, dog, and without a label, which may be of these" in left.report.notes[0]
    assert left.labels[6] == UNLABELLED


def test_a_site_keeps_them(tmp_path: Path) -> None:
    table = load(tmp_path, "path,text,label\n1.jpg,one,b\n2.jpg,two,\n")
    told = relabelled(table, ["a", "b", "c"])
    assert told.labels.tolist() == [1, UNLABELLED]
    assert counted(told.labels, 3).tolist() == [0, 1, 0]


def test_an_export_holds_them_without_a_label(tmp_path: Path) -> None:
    table = load(tmp_path, "path,text,label,client\n1.jpg,one,b,x\n2.jpg,two,,x\n3.jpg,three,a,x\n4.jpg,four,a,x\n")
    plan = DivisionPlan(Natural(), clients=1, validation=0.0, client_test=0.0, test=0.0, seed=0)
    export(table, plan, tmp_path / "out")
    again = Manifest(tmp_path / "out" / "manifest.csv").load()
    assert sorted(zip(again.texts or (), again.labels.tolist(), strict=True)) == [
        ("four", 0),
        ("one", 1),
        ("three", 0),
        ("two", UNLABELLED),
    ]
