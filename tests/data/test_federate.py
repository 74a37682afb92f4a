"""From a table to clients: official splits, natural clients, notes and errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedlens.core.labels import UNLABELLED
from fedlens.data.base import Scheme
from fedlens.data.cache import Decoding
from fedlens.data.division import Columns, DivisionPlan, divide
from fedlens.data.federate import federate
from fedlens.data.partition.dirichlet import Dirichlet
from fedlens.data.partition.iid import Iid
from fedlens.data.partition.natural import Natural
from fedlens.data.partition.overlapping import Overlapping
from fedlens.data.partition.pathological import Pathological
from fedlens.data.types import FederatedData, ImageTable, distinct
from fedlens.errors import DataError

PLAN = DivisionPlan(Iid(), clients=4, validation=0.1, client_test=0.1, test=0.2, seed=0)


def columns(size=200, classes=2, **others):
    return Columns(np.arange(size) % classes, tuple("abcdef"[:classes]), **others)


def all_rows(division):
    return [*division.test, *(row for c in division.clients for row in (*c.train, *c.val, *c.test))]


def test_every_row_has_one_place(tmp_path):
    division = divide(columns(), PLAN)
    assert sorted(all_rows(division)) == list(range(200))
    assert len(division.test) == 40
    # 160 rows over 4 clients: 40 each, of which 4 validation and 4 test
    assert [(len(c.train), len(c.val), len(c.test)) for c in division.clients] == [(32, 4, 4)] * 4
    assert division.notes == ()


def test_automatic_scheme_is_dirichlet_and_says_so(tmp_path):
    division = divide(columns(), replace(PLAN, scheme=None))
    assert "dirichlet, alpha 0.5" in division.notes[0]
    explicit = divide(columns(), replace(PLAN, scheme=Dirichlet(0.5)))
    assert all(np.array_equal(a.train, b.train) for a, b in zip(division.clients, explicit.clients, strict=True))


def test_partition_seed_moves_the_clients_but_not_the_test_set(tmp_path):
    one, two = (divide(columns(), replace(PLAN, partition_seed=seed)) for seed in (1, 2))
    assert np.array_equal(one.test, two.test)
    assert not np.array_equal(one.clients[0].train, two.clients[0].train)


def test_official_splits_are_kept(tmp_path):
    split = np.array(["train"] * 140 + ["val"] * 20 + ["test"] * 40)
    division = divide(columns(split=split), PLAN)
    assert division.test.tolist() == list(range(160, 200))
    assert sorted(row for c in division.clients for row in c.val) == list(range(140, 160))


def test_official_validation_rows_are_not_taken_for_the_global_test(tmp_path):
    split = np.array(["train"] * 100 + ["val"] * 100)
    division = divide(columns(split=split), PLAN)
    assert len(division.test) == 20
    assert division.test.max() < 100


def test_natural_clients_with_unowned_rows(tmp_path):
    owners = np.array(["north"] * 90 + ["south"] * 90 + [""] * 20)
    division = divide(columns(clients=owners), replace(PLAN, scheme=None))
    assert [client.name for client in division.clients] == ["north", "south"]
    assert division.notes == ("left out 20 images that belong to no client",)
    assert max(all_rows(division)) < 180
    split = np.array(["train"] * 180 + ["test"] * 20)
    division = divide(columns(clients=owners, split=split), replace(PLAN, scheme=None))
    assert (division.notes, division.test.tolist()) == ((), list(range(180, 200)))


def test_a_client_without_training_rows_is_left_out(tmp_path):
    owners = np.array(["a"] * 190 + ["b"] * 10)
    split = np.array(["train"] * 190 + ["val"] * 10)
    division = divide(columns(clients=owners, split=split), replace(PLAN, scheme=Natural()))
    assert [client.name for client in division.clients] == ["a"]
    assert division.notes == ("left out, for they have no training images: b",)


def test_a_client_with_one_image_trains(tmp_path):
    owners = np.array(["a"] * 199 + ["b"])
    division = divide(columns(clients=owners), replace(PLAN, scheme=Natural(), test=0.0))
    assert [len(client.train) + len(client.val) + len(client.test) for client in division.clients] == [199, 1]
    assert division.clients[1].train.tolist() == [199]


def test_a_class_that_no_client_has_is_noted(tmp_path):
    data = Columns(np.arange(200) % 2, ("cat", "dog", "owl"))
    assert divide(data, PLAN).notes == ("no client has a training image of owl: the model cannot learn this class",)
    few = divide(columns(200, 6), replace(PLAN, scheme=Pathological(1), clients=4))
    assert "left out 53 images" in few.notes[0]  # 160 rows dealt out of 6 classes, of which two have 27 and 26
    assert "e, f: the model cannot learn these 2 classes" in few.notes[1]


@pytest.mark.parametrize(
    ("data", "plan", "words"),
    [
        (Columns(np.zeros(50, np.int64), ("cat", "dog")), PLAN, "two classes at least.* classes: cat"),
        (columns(split=np.array(["test"] * 200)), PLAN, "no images to train on: of 200 images, 200"),
        (columns(clients=np.array([""] * 200)), replace(PLAN, scheme=Natural()), "belongs to a client"),
        (columns(), replace(PLAN, scheme=Natural()), "names no clients"),
        (columns(), replace(PLAN, clients=500), "500 clients"),
        (columns(0), PLAN, "no images to train on"),
    ],
)
def test_bad_input(data, plan, words, tmp_path):
    with pytest.raises(DataError, match=words):
        divide(data, plan)


def test_groups_stay_together_across_everything(tmp_path):
    groups = np.array([f"patient{row // 4}" for row in range(200)])
    division = divide(columns(groups=groups), PLAN)
    sides = [division.test, *(np.concatenate([getattr(c, s) for c in division.clients]) for s in ("train", "val", "test"))]  # fmt: skip  # noqa: E501
    seen = [set(groups[rows]) for rows in sides]
    assert sum(map(len, seen)) == len(set.union(*seen))


def test_a_users_own_scheme_may_leave_images_out():
    class Mine(Scheme):
        def assign(self, rows):
            return {"me": np.arange(len(rows.labels))[1:]}

    division = divide(columns(), replace(PLAN, scheme=Mine()))
    assert division.notes == ("left out 1 images that the partition scheme gave to no client",)


def test_federate_numbers_rows_by_the_images_kept(tmp_path):
    import cv2

    files = []
    for number in range(40):
        file = tmp_path / f"{number:02}.png"
        cv2.imwrite(str(file), np.full((8, 8), number, np.uint8))
        files.append(file)
    files[3].write_bytes(b"not an image")
    table = ImageTable(files, np.arange(40) % 2, ("even", "odd"), channels=1)
    plan = replace(PLAN, clients=2)
    data = federate(table, plan, Decoding(8, cache_dir=tmp_path / "cache"))
    assert data.images.shape == (39, 8, 8, 1)
    assert [str(files[3])] == [file for file, _ in data.report.skipped]
    assert (data.images[:, 0, 0, 0].numpy() % 2 == data.labels.numpy()).all()
    assert data.images[3, 0, 0, 0] == 4
    with pytest.raises(DataError, match=r"03\.png"):
        federate(table, plan, Decoding(8, "fail", cache_dir=tmp_path / "other"))


def test_test_images_of_a_client_are_its_test_at_home(tmp_path):
    clients, split = np.array([*"aaaabbbb", ""]), np.array(["train", "train", "train", "test"] * 2 + ["test"])
    columns = Columns(np.array([0, 1, 0, 1] * 2 + [0]), ("x", "y"), split, clients)
    plan = DivisionPlan(None, 2, validation=0.0, client_test=0.5, test=0.2, seed=0)

    division = divide(columns, plan)

    assert [(c.name, c.train.tolist(), c.test.tolist()) for c in division.clients] == [
        ("a", [0, 1, 2], [3]),
        ("b", [4, 5, 6], [7]),
    ]
    assert division.test.tolist() == [3, 7, 8]


@pytest.mark.parametrize("groups", [None, np.array([str(row // 4) for row in range(200)])], ids=["rows", "groups"])
def test_an_image_of_several_clients_is_in_one_split_at_each_of_them(groups):
    plan = replace(PLAN, scheme=Overlapping(20), clients=300)
    division = divide(columns(groups=groups), plan)
    places = {split: {row for c in division.clients for row in getattr(c, split)} for split in ("train", "val", "test")}
    assert sum(map(len, places.values())) == len(set.union(*places.values())) == 160
    assert not set.union(*places.values()) & set(division.test)
    assert [len(places["val"]), len(places["test"])] == [16, 16]  # a tenth of 160 each
    assert all(len(c.train) + len(c.val) + len(c.test) == 20 for c in division.clients)
    assert division.notes == ()


def test_images_of_several_clients_count_once_where_they_are_taken_together(tmp_path):
    table = ImageTable(np.zeros((200, 4, 4, 1), np.uint8), np.arange(200) % 2, ("even", "odd"), channels=1)
    decoding = Decoding(4, cache_dir=tmp_path)
    data = federate(table, replace(PLAN, scheme=Overlapping(20), clients=300), decoding)
    assert len(data.val) == 16
    (everybody,) = data.pooled().clients
    assert [len(everybody.train), len(everybody.val), len(everybody.test)] == [128, 16, 16]
    # as before where nobody shares: the clients' rows one after the other
    data = federate(table, PLAN, decoding)
    assert data.val.tolist() == [row for client in data.clients for row in client.val]


def test_a_row_without_a_label_at_several_clients_is_counted_once():
    labels = np.where(np.arange(200) < 20, UNLABELLED, np.arange(200) % 2)
    plan = replace(PLAN, scheme=Overlapping(20), clients=300)
    assert divide(replace(columns(), labels=labels), plan).notes == ()


def test_what_clients_hold_is_counted_for_all_at_once(tmp_path, monkeypatch):
    labels = np.where(np.arange(200) < 20, UNLABELLED, np.arange(200) % 2)
    table = ImageTable(np.zeros((200, 4, 4, 1), np.uint8), labels, ("even", "odd"), channels=1)
    data = federate(table, PLAN, Decoding(4, cache_dir=tmp_path))
    one_by_one = {
        split: [tuple(data.class_counts(getattr(client, split)).tolist()) for client in data.clients]
        for split in ("train", "val", "test")
    }
    unlabelled = [data.unlabelled(client.train) for client in data.clients]
    monkeypatch.setattr(FederatedData, "class_counts", None)
    assert data.holdings.counts == one_by_one
    assert data.holdings.unlabelled == unlabelled
    assert sum(unlabelled) == 20
    assert replace(data, clients=()).holdings.counts == {"train": [], "val": [], "test": []}


def test_distinct_rows_keep_the_order_in_which_they_come_first():
    assert distinct([np.array([5, 2, 5]), np.array([], np.int64), np.array([9, 2, 0])]).tolist() == [5, 2, 9, 0]
    assert distinct([]).tolist() == []
