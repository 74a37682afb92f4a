"""Rows without a label: which are read, and that they train and are never tested."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.data.test_held_out import data as data  # noqa: PLC0414 - a fixture
from tests.data.test_modalities import federated, without

from fedlens.attacks.label_flip import LabelFlip
from fedlens.build.load import load as configured
from fedlens.build.modalities import rows_of_use
from fedlens.checks.contracts import Broken, table_is_whole
from fedlens.core.labels import UNLABELLED, counted
from fedlens.data.contents import copy_notes
from fedlens.data.division import Columns, DivisionPlan, divide
from fedlens.data.export import export
from fedlens.data.held_out import hold_out
from fedlens.data.labels import check_held_out
from fedlens.data.partition.dirichlet import Dirichlet
from fedlens.data.partition.natural import Natural
from fedlens.data.show import of_run, of_table
from fedlens.data.site import relabelled
from fedlens.data.sources.manifest import Manifest
from fedlens.data.splits import client_splits, global_test
from fedlens.data.types import ClientRows, FederatedData, ImageTable
from fedlens.data.unlabelled import pairs_alone, without_unlabelled
from fedlens.errors import DataError
from fedlens.reports.partition import render

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
    told = "left out 4 rows without a label: image or text is missing, or the split is not train"
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


def test_groups_without_any_label_train() -> None:
    groups = np.array([f"patient{row // 10}" for row in range(200)])
    labels = HALF.copy()
    labels[100:] = UNLABELLED
    plan = DivisionPlan(Dirichlet(alpha=100, min_size=1), clients=2, validation=0.2, client_test=0.0, test=0.2, seed=0)
    division = divide(Columns(labels, ("x", "y"), groups=groups), plan)
    trained = np.concatenate([client.train for client in division.clients])
    assert set(range(100, 200)) <= set(trained.tolist())
    held = np.concatenate([division.test, *(one.val for one in division.clients)])
    assert not set(groups[trained]) & set(groups[held])
    lost = 50 - len(held) - (labels[trained] != UNLABELLED).sum()
    assert lost == 0
    gone = 150 - (labels[trained] == UNLABELLED).sum()
    assert gone > 0
    assert f"left out {gone} rows without a label, whose groups are tested" in division.notes


def test_who_learns_from_labels_has_none_of_them(tmp_path: Path) -> None:
    table = load(tmp_path, "path,text,label\n1.jpg,one,b\n2.jpg,two,\n3.jpg,three,a\n")
    left = without_unlabelled(table)
    assert left.labels.tolist() == [1, 0]
    assert left.texts == ["one", "three"]
    assert left.notes[-1] == "left out 1 row without a label, for the model learns from labels"
    assert without_unlabelled(left) is left
    with pytest.raises(DataError, match="no row has a label"):
        without_unlabelled(replace(table, labels=np.full(3, UNLABELLED)))


def test_who_learns_from_pairs_has_those_that_are_pairs() -> None:
    labels = federated(2).labels.clone()
    labels[[0, 1, 4]] = UNLABELLED
    data = pairs_alone(federated(2, labels=labels, has_text=without(12, 4)))
    assert [one.train.tolist() for one in data.clients] == [[0, 1], [5]]
    assert data.report.notes == ("left out 1 row without a label and without image or text",)
    whole = federated(2)
    assert pairs_alone(whole) is whole
    with pytest.raises(DataError, match="give rows labels"):
        nobody = torch.full((12,), UNLABELLED)
        pairs_alone(federated(2, labels=nobody, has_text=torch.zeros(12, dtype=torch.bool)))


def test_they_are_of_no_class_where_classes_are_checked(tmp_path: Path) -> None:
    check_held_out(np.array([0, UNLABELLED, UNLABELLED]), ("a",), np.array(["train", "train", "test"]))
    clients = (ClientRows("x", np.arange(3), np.arange(0), np.arange(0)),)
    files, same = [Path("1"), Path("2"), Path("3")], ["k", "k", "k"]
    assert copy_notes(files, same, np.array([0, UNLABELLED, 0]), clients, np.arange(0)) == ()
    assert "another class" in copy_notes(files, same, np.array([0, UNLABELLED, 1]), clients, np.arange(0))[0]
    table = load(tmp_path, "path,text,label\n1.jpg,one,b\n2.jpg,two,\n")
    table_is_whole(table, table)
    with pytest.raises(Broken, match="labels have to be indexes"):
        table_is_whole(replace(table, labels=np.array([0, -1])), table)


def test_label_flipping_leaves_them() -> None:
    flip = LabelFlip().poison(np.arange(3), 3, 0)
    assert flip is not None
    labels = torch.tensor([0, UNLABELLED, 1])
    assert flip(torch.arange(3), torch.zeros(3), labels)[1].tolist() == [2, UNLABELLED, 1]


def test_pages_and_screens_count_them_and_no_class_more(tmp_path: Path) -> None:
    table = load(tmp_path, "path,text,label,client\n1.jpg,one,b,x\n2.jpg,two,,x\n3.jpg,three,a,x\n4.jpg,four,,x\n")
    held = of_table(table)
    assert held.classes == 2
    assert held.commonest(held.counts[0]) == "a"
    assert "4 images · 1 client · 2 classes" in render(held, "")
    counts = {"train": [1, 1], "val": [0, 0], "test": [0, 0]}
    saved = {"class_names": ["a", "b"], "clients": {"x": counts}, "test": [1, 1], "unlabelled": {"x": 2}}
    (tmp_path / "partition.json").write_text(json.dumps(saved), encoding="utf-8")
    again = of_run(tmp_path)
    assert (again.class_names, again.counts.tolist(), again.classes) == (("a", "b", "no label"), [[1, 1, 2]], 2)


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


def test_they_leave_before_rows_are_divided_unless_pairs_train_the_model(tmp_path: Path) -> None:
    table = load(tmp_path, "path,text,label\n1.jpg,one,b\n2.jpg,two,\n3.jpg,three,a\n")
    for kept, settings in (
        (3, ["model.name=dual_encoder"]),
        (2, ["model.name=dual_encoder", "model.learns=labels"]),
        (2, ["model.name=dual_encoder", "strategy.name=qfedavg"]),
        (2, ["model.name=dual_encoder", "strategy.name=fedproto"]),
        (2, ["model.name=fusion"]),
        (2, ["model.name=lenet"]),
    ):
        more = ["federated.missing_modalities=average"] if "model.name=lenet" not in settings else []
        assert len(rows_of_use(configured(None, [*settings, *more]), table).labels) == kept, settings
