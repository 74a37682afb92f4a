"""Splits: fractions, classes, groups, and what must never happen."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlens.data.splits import client_splits, global_test


def test_global_test_takes_the_same_share_of_each_class():
    labels = np.repeat([0, 1, 2], [100, 50, 10])
    rest, test = global_test(labels, None, 0.2, seed=1)
    assert np.bincount(labels[test]).tolist() == [20, 10, 2]
    assert sorted([*rest, *test]) == list(range(160))
    assert np.array_equal(test, global_test(labels, None, 0.2, seed=1)[1])
    assert not np.array_equal(test, global_test(labels, None, 0.2, seed=2)[1])


def test_remainders_fill_up_to_the_whole_fraction():
    labels = np.arange(30) // 3  # ten classes of three: 0.1 of 30 is 3 rows, though each class' share is 0.3
    _, test = global_test(labels, None, 0.1, seed=0)
    assert len(test) == 3
    assert np.bincount(labels[test]).max() == 1


def test_last_row_of_a_class_stays_in_training():
    labels = np.array([0] * 20 + [1])
    for seed in range(20):
        rest, test = global_test(labels, None, 0.5, seed)
        assert 20 in rest
        assert len(test) == 11  # 10.5 rounded up
    everything_single = np.arange(5)
    assert len(global_test(everything_single, None, 0.5, 0)[1]) == 0


def test_global_test_takes_whole_groups_and_spares_the_only_group_of_a_class():
    groups = np.array([f"patient{number // 5}" for number in range(100)])
    labels = np.zeros(100, np.int64)
    labels[:5] = 1  # only patient0 has class 1
    for seed in range(10):
        rest, test = global_test(labels, groups, 0.2, seed)
        assert len(test) == 20
        assert not set(groups[rest]) & set(groups[test])
        assert "patient0" not in groups[test]


def test_rows_without_a_group_stand_alone():
    _, test = global_test(np.zeros(50, np.int64), np.array([""] * 50), 0.2, 0)
    assert len(test) == 10


def test_client_splits_by_fraction():
    labels = np.tile([0, 1], 100)
    owned = {"client1": np.arange(100), "client2": np.arange(100, 200)}
    one, two = client_splits(owned, labels, None, validation=0.1, test=0.2, seed=5)
    assert (len(one.train), len(one.val), len(one.test)) == (70, 10, 20)
    assert np.bincount(labels[one.test]).tolist() == [10, 10]
    assert sorted([*two.train, *two.val, *two.test]) == list(range(100, 200))


def test_a_clients_split_does_not_depend_on_the_others():
    labels, rows = np.zeros(60, np.int64), np.arange(30)
    (alone,) = client_splits({"b": rows}, labels, None, validation=0.1, test=0.1, seed=0)
    _, beside = client_splits({"a": rows + 30, "b": rows}, labels, None, validation=0.1, test=0.1, seed=0)
    assert np.array_equal(alone.test, beside.test)


def test_a_client_with_one_image_trains_on_it():
    (only,) = client_splits({"c": np.array([3])}, np.zeros(5, np.int64), None, validation=0.45, test=0.45, seed=0)
    assert (only.train.tolist(), len(only.val), len(only.test)) == ([3], 0, 0)


def test_official_validation_rows_stay_validation():
    official = np.zeros(100, bool)
    official[:15] = True
    labels = np.zeros(100, np.int64)
    (client,) = client_splits(
        {"c": np.arange(100)}, labels, None, validation=0.5, test=0.1, seed=0, official_val=official
    )
    assert client.val.tolist() == list(range(15))
    assert len(client.test) == 10


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 8), st.integers(1, 20))
def test_groups_never_straddle_also_across_clients(seed, clients, groups_number):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, 80)
    groups = np.array([f"g{number}" if number else "" for number in rng.integers(0, groups_number + 1, 80)])
    owners = rng.integers(0, clients, 80)
    owned = {f"client{number}": np.flatnonzero(owners == number) for number in range(clients)}
    split = client_splits(owned, labels, groups, validation=0.2, test=0.2, seed=seed)
    where: dict[str, set[str]] = {}
    for client in split:
        for name in ("train", "val", "test"):
            for row in getattr(client, name):
                if groups[row]:
                    where.setdefault(groups[row], set()).add(name)
        assert sorted([*client.train, *client.val, *client.test]) == owned[client.name].tolist()
    assert all(len(splits) == 1 for splits in where.values())


def test_a_client_keeps_training_rows_of_each_of_its_classes_with_groups():
    labels = np.repeat([0, 1], 20)
    groups = np.array([f"g{row // 4}" for row in range(40)])
    (client,) = client_splits({"c": np.arange(40)}, labels, groups, validation=0.4, test=0.4, seed=0)
    assert set(labels[client.train]) == {0, 1}
    assert len(client.test) == 16
    assert len(client.val) == 16
