"""Krum, Multi-Krum and Bulyan."""

import numpy as np
import pytest
import torch
from tests.aggregation.updates import TRAINABLE, flat, matrix, points, random_updates, total

from fedlens.aggregation.bulyan import Bulyan, around_the_median
from fedlens.aggregation.gathered import squared_distances
from fedlens.aggregation.krum import Krum
from fedlens.aggregation.multikrum import MultiKrum

LINE = points([0], [1], [2.5], [4.5], [100])
"""Scores for f = 1, over 2 neighbours: 7.25, 3.25, 6.25, 16.25, more."""


def scores(rows: np.ndarray, f: int) -> np.ndarray:
    """Krum's scores as the paper writes them."""
    distances = ((rows[:, None] - rows[None, :]) ** 2).sum(-1)
    neighbours = max(len(rows) - f - 2, 1)
    return np.array([np.sort(np.delete(row, index))[:neighbours].sum() for index, row in enumerate(distances)])


def test_krum_by_hand() -> None:
    assert total(Krum(f=1), LINE).delta["bias"].tolist() == [1]


@pytest.mark.parametrize(("count", "f"), [(7, 2), (10, 3), (20, 4)])
def test_krum_takes_the_update_with_the_least_score(count: int, f: int) -> None:
    updates = random_updates(count, seed=count)
    best = int(scores(matrix(updates), f).argmin())
    found = total(Krum(f=f), updates).delta
    assert all(torch.equal(found[name], value) for name, value in updates[best].items())


def test_multikrum_by_hand() -> None:
    assert total(MultiKrum(f=1), LINE).delta["bias"].tolist() == [2]  # (0 + 1 + 2.5 + 4.5) / 4
    assert total(MultiKrum(f=1, m=2), LINE).delta["bias"].tolist() == [1.75]
    assert total(MultiKrum(f=1, m=1), LINE).delta["bias"].tolist() == [1]


def test_multikrum_averages_the_best_and_m_n_is_the_mean() -> None:
    updates = random_updates(10)
    best = np.argsort(scores(matrix(updates), 3))[:7]
    assert np.allclose(flat(total(MultiKrum(f=3), updates).delta), matrix(updates)[best].mean(0), atol=1e-6)
    assert np.allclose(flat(total(MultiKrum(f=3, m=10), updates).delta), matrix(updates).mean(0), atol=1e-6)


def test_distances_are_those_of_plain_differences() -> None:
    rows = matrix(updates := random_updates(6))
    expected = ((rows[:, None] - rows[None, :]) ** 2).sum(-1)
    found = squared_distances(updates, TRAINABLE)
    assert np.allclose(found.numpy(), expected, rtol=1e-9)
    assert torch.equal(found, found.t())


def test_honest_distances_survive_a_lie_of_a_trillion() -> None:
    honest = random_updates(5)
    lie = {name: value * 1e12 for name, value in honest[0].items()}
    assert torch.allclose(squared_distances([*honest, lie], TRAINABLE)[:5, :5], squared_distances(honest, TRAINABLE))


@pytest.mark.parametrize(
    ("values", "kept", "mean"),
    [((8, 0, 2, 9, 1), 3, 1), ((0, 20, 6, 7, 5), 3, 6), ((0, 10, 11, 12, 13), 3, 11), ((1, 2, 3, 4, 90), 1, 3)],
)
def test_what_lies_around_the_median_by_hand(values, kept: int, mean: float) -> None:
    rows = torch.tensor(values, dtype=torch.float32).view(-1, 1)
    assert around_the_median(kept)(rows).tolist() == [mean]


@pytest.mark.parametrize(("count", "kept"), [(5, 3), (7, 3), (9, 3), (9, 1), (8, 4), (12, 4), (15, 5), (6, 6)])
def test_what_lies_around_the_median_as_sorting_by_distance_says(count: int, kept: int) -> None:
    rows = torch.randn(count, 300, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    values = rows.numpy().copy()
    nearest = np.argsort(np.abs(values - np.median(values, axis=0)), axis=0)[:kept]
    assert np.allclose(around_the_median(kept)(rows).numpy(), np.take_along_axis(values, nearest, 0).mean(0))


@pytest.mark.parametrize(("count", "f"), [(7, 1), (11, 2), (16, 3)])
def test_bulyan_as_the_paper_writes_it(count: int, f: int) -> None:
    updates = random_updates(count, seed=count)
    rows, left, chosen = matrix(updates), list(range(count)), []
    for _ in range(count - 2 * f):
        found = scores(rows[left], f)
        ties = [one for one, score in zip(left, found, strict=True) if np.isclose(score, found.min())]
        best = min(ties, key=lambda one: ((rows[one] - rows[left]) ** 2).sum())
        chosen.append(best)
        left.remove(best)
    selected = rows[chosen]
    nearest = np.argsort(np.abs(selected - np.median(selected, axis=0)), axis=0)[: count - 4 * f]
    expected = np.take_along_axis(selected, nearest, 0).mean(0)
    assert sorted(chosen) == Bulyan(f=f).selected(squared_distances(updates, TRAINABLE))
    assert np.allclose(flat(total(Bulyan(f=f), updates).delta), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("rule", "enough", "parts"),
    [
        (Krum(f=2), 7, ["f = 2: krum needs 2 f + 3 = 7", "there are 6", "use aggregation.f=1, or have 7 clients"]),
        (MultiKrum(f=1), 5, ["f = 1: multikrum needs 2 f + 3 = 5", "there are 4; have 5 clients a round"]),
        (MultiKrum(f=1, m=8), 8, ["m = 8: there are only 7 results a round; use aggregation.m=7 or less"]),
        (Bulyan(f=3), 15, ["f = 3: bulyan needs 4 f + 3 = 15", "there are 14; use aggregation.f=2"]),
    ],
)
def test_too_few_clients(rule, enough: int, parts: list[str]) -> None:
    assert rule.incompatibility(enough) is None
    for part in parts:
        assert part in str(rule.incompatibility(enough - 1))
