"""Schemes against closed forms and hand-made labels."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from fedlens.checks.contracts import Broken, scheme_deals
from fedlens.data.base import ToPartition, schemes
from fedlens.data.partition.dirichlet import Dirichlet
from fedlens.data.partition.iid import Iid
from fedlens.data.partition.natural import Natural
from fedlens.data.partition.overlapping import Overlapping
from fedlens.data.partition.pathological import Pathological
from fedlens.data.partition.quantity import Quantity
from fedlens.data.partition.shard import Shard
from fedlens.errors import DataError

LABELS = np.random.default_rng(7).integers(0, 5, 1000)


def rows(clients=10, labels=LABELS, seed=3, natural=None):
    names = tuple(f"class{number}" for number in range(int(labels.max()) + 1))
    return ToPartition(labels, names, clients, seed, natural)


DEALT = [Iid(), Dirichlet(), Dirichlet(alpha=0.3, balanced=True), Pathological(), Shard(), Quantity()]
DEALT += [Quantity("square"), Quantity("dirichlet", alpha=2.0)]


@pytest.mark.parametrize("scheme", DEALT, ids=repr)
def test_every_row_goes_to_one_client_and_the_seed_decides(scheme):
    parts = scheme_deals(scheme, rows())
    assert list(parts) == [f"client{number}" for number in range(1, 11)]
    together = np.concatenate(list(parts.values()))
    assert sorted(together) == list(range(1000))  # 1000 divides by 20 shards too
    assert all((np.diff(part) > 0).all() and part.dtype == np.int64 for part in parts.values())
    other = scheme.assign(rows(seed=4))
    assert any(not np.array_equal(parts[name], other[name]) for name in parts)


def test_registry_knows_the_schemes_and_rejects_bad_values():
    assert schemes.names() == ["dirichlet", "iid", "natural", "overlapping", "pathological", "quantity", "shard"]
    with pytest.raises(ValidationError):
        schemes.get("dirichlet").build({"alpha": 0})
    with pytest.raises(ValidationError):
        schemes.get("dirichlet").build({"alfa": 1})


@pytest.mark.parametrize("scheme", [*DEALT, Pathological(5)], ids=repr)
def test_a_class_is_cut_in_random_order_and_not_where_it_stands(scheme):
    """200 neighbouring rows a class, as folders give them: cut in that order, a client's rows of a class are a run of
    numbers, where max − min + 1 = count. 5 of 5 classes leave nothing else to the seed than who gets which rows."""
    sorted_labels = np.repeat(np.arange(5), 200)
    one, two = (scheme.assign(rows(labels=sorted_labels, seed=seed)) for seed in (3, 4))
    held = [part[sorted_labels[part] == label] for part in one.values() for label in range(5)]
    assert all(mine.max() - mine.min() + 1 > len(mine) for mine in held if 5 <= len(mine) <= 150)
    assert all(set(one[name]) != set(two[name]) for name in one)


def test_dirichlet_shares_have_the_distributions_mean_and_variance():
    """A class' share at one of n clients has the mean 1 / n and the variance (1 / n) (1 − 1 / n) / (n α + 1)."""
    labels, alpha, clients = np.zeros(10_000, np.int64), 0.5, 4
    shares = np.array(
        [
            [len(part) / len(labels) for part in Dirichlet(alpha, 0).assign(rows(clients, labels, seed)).values()]
            for seed in range(400)
        ]
    )
    variance = (1 / clients) * (1 - 1 / clients) / (clients * alpha + 1)
    assert shares.mean(0) == pytest.approx(1 / clients, abs=4 * (variance / 400) ** 0.5)
    assert shares.var() == pytest.approx(variance, rel=0.1)


@pytest.mark.parametrize("held", [1, 2, 3])
def test_a_pathological_client_holds_so_many_classes_each_cut_evenly(held):
    parts = Pathological(held).assign(rows())
    counts = np.array([np.bincount(LABELS[part], minlength=5) for part in parts.values()])
    assert ((counts > 0).sum(1) == held).all()
    assert all(counts[client, client % 5] > 0 for client in range(10)), "the first class goes round by client"
    for of_class in counts.T:
        assert np.ptp(of_class[of_class > 0]) <= 1


def test_shards_are_equal_runs_of_the_rows_by_class():
    parts = Shard(2).assign(rows())
    assert {len(part) for part in parts.values()} == {100}
    # a shard of 50 rows lies in one class, or over the border of two
    assert max(len(np.unique(LABELS[part])) for part in parts.values()) <= 4


def test_natural_sorts_by_number_and_leaves_unowned_rows():
    owners = np.array(["client10", "client2", "", "client1", "client2"])
    parts = Natural().assign(rows(labels=np.zeros(5, np.int64), natural=owners))
    assert {name: part.tolist() for name, part in parts.items()} == {
        "client1": [3], "client2": [1, 4], "client10": [0]
    }  # fmt: skip
    assert list(parts) == ["client1", "client2", "client10"]


def test_iid_sizes_and_mixture():
    parts = Iid().assign(rows(clients=3))
    assert sorted(map(len, parts.values())) == [333, 333, 334]


def test_dirichlet_alpha_sets_the_skew_and_balanced_caps_the_size():
    def largest_share(alpha):
        parts = Dirichlet(alpha=alpha, min_size=1).assign(rows())
        return np.mean([np.bincount(LABELS[part]).max() / len(part) for part in parts.values()])

    assert largest_share(100.0) < 0.35
    assert largest_share(0.1) > 0.5
    free = max(map(len, Dirichlet(0.3).assign(rows()).values()))
    capped = max(map(len, Dirichlet(0.3, balanced=True).assign(rows()).values()))
    assert capped < free


def test_pathological_gives_exactly_k_classes_and_covers_all():
    parts = Pathological(2).assign(rows())
    held = [set(LABELS[part]) for part in parts.values()]
    assert all(len(classes) == 2 for classes in held)
    assert set.union(*held) == {0, 1, 2, 3, 4}


def test_shards_are_consecutive_in_label_order():
    labels = np.repeat([1, 0], 4)  # sorted by label: rows 4 5 6 7 | 0 1 2 3
    parts = Shard(1).assign(rows(clients=2, labels=labels))
    assert sorted(part.tolist() for part in parts.values()) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    left_over = Shard(2).assign(rows(clients=3, labels=np.repeat([1, 0], 4)))  # 8 rows, 6 shards of 1
    assert sum(map(len, left_over.values())) == 6


def test_quantity_linear_sizes():
    # 100 rows over sizes 1 : 2 : 3 : 4 → 10, 20, 30, 40
    parts = Quantity().assign(rows(clients=4, labels=np.zeros(100, np.int64)))
    assert [len(part) for part in parts.values()] == [10, 20, 30, 40]
    # 1000 rows over e¹ : e² : e³ = 2.718 : 7.389 : 20.086 → 90, 244, and the rest
    parts = Quantity("exponential").assign(rows(clients=3))
    assert [len(part) for part in parts.values()] == [90, 244, 666]


@pytest.mark.parametrize(
    ("scheme", "asked", "words"),
    [
        (Iid(), rows(clients=1001), "1001 clients of at least 1 need 1001 images, but there are 1000"),
        (Dirichlet(), rows(clients=101), "101 clients of at least 10 need 1010 images"),
        (Dirichlet(alpha=0.001, min_size=50), rows(), "alpha=0.001 over 10 clients, no draw of 110"),
        (Dirichlet(alpha=1e-300, balanced=True), rows(), "alpha=1e-300"),
        (Pathological(6), rows(), "classes_per_client=6, but .* is 5"),
        (Pathological(2), rows(clients=10, labels=np.arange(10) // 2), "images of some class"),
        (Shard(200), rows(), "10 clients × 200 shards need at least 2000 images, but there are 1000"),
        (Quantity("exponential"), rows(clients=30), "skew=exponential over 30 clients"),
        (Quantity("dirichlet", alpha=0.01), rows(clients=100), "skew=dirichlet, alpha=0.01"),
        (Quantity("linear", min_size=50), rows(), "fewer than 50"),
        (Natural(), rows(), "names no clients"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_met_is_said(scheme, asked, words):
    with pytest.raises(DataError, match=words):
        scheme.assign(asked)


def test_strong_skew_over_many_clients_is_found_by_a_restart():
    labels = np.random.default_rng(0).integers(0, 10, 60_000)  # with seed 2 the first eleven draws fail
    parts = Dirichlet(alpha=0.1).assign(rows(clients=100, labels=labels, seed=2))
    assert min(map(len, parts.values())) >= 10


def test_overlapping_clients_draw_as_many_images_as_asked_from_all():
    parts = scheme_deals(Overlapping(30), rows(clients=500))
    assert [len(part) for part in parts.values()] == [30] * 500
    held = np.bincount(np.concatenate(list(parts.values())), minlength=1000)
    assert held.sum() == 15_000
    assert abs(held - 15).max() < 25  # Binomial(500, 0.03): mean 15, deviation 3.8
    assert not np.array_equal(parts["client1"], parts["client2"])


def test_more_images_than_there_are_cannot_be_drawn():
    with pytest.raises(DataError, match="images_per_client=1001, but there are 1000 images to draw from"):
        Overlapping(1001).assign(rows())


def test_a_scheme_that_overlaps_may_not_give_an_image_twice_to_one_client():
    class Twice(Overlapping):
        def assign(self, rows):
            return {"one": np.array([3, 3])}

    with pytest.raises(Broken, match="one image to one client twice"):
        scheme_deals(Twice(), rows())
