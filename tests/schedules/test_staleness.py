"""What stale updates are worth, by hand."""

import pytest
import torch

from fedlens.schedules.fedasync import FedAsync
from fedlens.schedules.fedbuff import FedBuff

TRAINED, STATISTIC = "weight", "variance"
BASE = {TRAINED: torch.tensor([1.0, 2.0]), STATISTIC: torch.tensor([10.0])}
UPDATE = {TRAINED: torch.tensor([0.5, -1.0]), STATISTIC: torch.tensor([-9.0])}  # the client ended at 1.5, 1 and 1
NOW = {TRAINED: torch.tensor([3.0, 0.0]), STATISTIC: torch.tensor([2.0])}


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        # α s(τ) for τ = 0, 1, 3, 4, 5, 9
        (FedAsync(mixing=0.6, staleness="constant"), (0.6, 0.6, 0.6, 0.6, 0.6, 0.6)),
        (FedAsync(mixing=0.6), (0.6, 0.6 / 2**0.5, 0.3, 0.6 / 5**0.5, 0.6 / 6**0.5, 0.6 / 10**0.5)),
        (FedAsync(mixing=0.6, staleness="polynomial", a=1.0), (0.6, 0.3, 0.15, 0.12, 0.1, 0.06)),
        # 1 up to b = 4, then 1 / (10 (τ − 4) + 1): 1/11 and 1/51
        (FedAsync(mixing=0.6, staleness="hinge", b=4), (0.6, 0.6, 0.6, 0.6, 0.6 / 11, 0.6 / 51)),
    ],
    ids=["constant", "square root", "inverse", "hinge"],
)  # fmt: skip
def test_how_fedasync_weighs_staleness(schedule: FedAsync, shares) -> None:
    assert [schedule.share(staleness) for staleness in (0, 1, 3, 4, 5, 9)] == pytest.approx(list(shares))


def test_fedasync_mixes_the_clients_model_into_the_servers() -> None:
    """α = 0.8, τ = 3, a = 0.5: α_t = 0.4. x ← 0.6 x + 0.4 x_new: 0.6 · 3 + 0.4 · 1.5 = 2.4, 0.6 · 0 + 0.4 · 1 = 0.4,
    and 0.6 · 2 + 0.4 · 1 = 1.6."""
    move = FedAsync(mixing=0.8).update(UPDATE, BASE, NOW, 3, frozenset({TRAINED}))
    assert (NOW[TRAINED] + move[TRAINED]).tolist() == pytest.approx([2.4, 0.4])
    assert (NOW[STATISTIC] + move[STATISTIC]).tolist() == pytest.approx([1.6])


def test_fedbuff_scales_the_update_and_mixes_statistics() -> None:
    """τ = 3, a = 0.5: s = 0.5. The update is halved; the statistic, of which 2 − 9 would be left, goes half the way
    from 2 to the client's 1."""
    move = FedBuff().update(UPDATE, BASE, NOW, 3, frozenset({TRAINED}))
    assert move[TRAINED].tolist() == [0.25, -0.5]
    assert move[STATISTIC].tolist() == [-0.5]


def test_a_fresh_update_is_taken_as_it_is() -> None:
    assert FedBuff().update(UPDATE, BASE, BASE, 0, frozenset({TRAINED})) is UPDATE


def test_without_an_exponent_staleness_costs_nothing() -> None:
    assert FedBuff(a=0.0).scale(7) == 1.0


@pytest.mark.parametrize(("size", "concurrency", "buffer"), [(None, 100, 10), (None, 4, 4), (3, 4, 3)])
def test_how_many_updates_make_a_step(size, concurrency: int, buffer: int) -> None:
    assert FedBuff(buffer_size=size).buffer(concurrency) == buffer
    assert FedAsync().buffer(concurrency) == 1
