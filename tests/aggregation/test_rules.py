"""What all rules have in common, the mean included."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.aggregation.updates import TRAINABLE, answer, flat, matrix, random_updates, total

from fedlens.aggregation.base import rules
from fedlens.aggregation.bulyan import Bulyan
from fedlens.aggregation.centered_clip import CenteredClip
from fedlens.aggregation.gathered import ROOM, pieces
from fedlens.aggregation.geometric_median import GeometricMedian
from fedlens.aggregation.krum import Krum
from fedlens.aggregation.mean import MeanRule
from fedlens.aggregation.median import Median
from fedlens.aggregation.multikrum import MultiKrum
from fedlens.aggregation.norm_bound import NormBound
from fedlens.aggregation.trimmed_mean import TrimmedMean
from fedlens.checks.contracts import rule_combines
from fedlens.config.blocks import field_names
from fedlens.errors import NotEnoughClients

EVERY = pytest.mark.parametrize("entry", rules.entries(), ids=lambda entry: entry.name)

BEARS_TWO = (
    Median(),
    TrimmedMean(beta=0.2),
    GeometricMedian(),
    Krum(f=2),
    MultiKrum(f=2),
    Bulyan(f=2),
    CenteredClip(tau=1.0),
)
"""Of eleven clients."""


@EVERY
def test_the_order_of_arrival_does_not_matter_and_updates_are_not_changed(entry) -> None:
    rule_combines(entry.build({}), random_updates(7), TRAINABLE)


@EVERY
def test_equal_updates_are_what_comes_out(entry) -> None:
    (update,) = random_updates(1)
    wide = {"bound": 1e6} if "bound" in field_names(entry) else {}
    found = total(entry.build(wide), [update] * 7, [1.0, 2.0] * 3 + [9.0])
    assert (found.weight, found.count) == (18.0, 7)
    assert found.delta.keys() == update.keys()
    for name, value in update.items():
        assert torch.allclose(found.delta[name], value, atol=1e-6), name


@EVERY
def test_extras_are_averaged(entry) -> None:
    aggregator = entry.build({}).aggregator(TRAINABLE)
    for index, update in enumerate(random_updates(7)):
        aggregator.add(answer(f"client{index}", update, 10.0 * index + 1, {"c": torch.tensor([float(index)])}))
    result = aggregator.result()
    assert result is not None
    assert result.extra["c"].item() == pytest.approx(3.0)


@EVERY
def test_any_layout_in_memory_gives_the_same(entry) -> None:
    updates = random_updates(7)
    last = [{**u, "conv": u["conv"].contiguous(memory_format=torch.channels_last)} for u in updates]
    one, other = total(entry.build({}), updates), total(entry.build({}), last)
    assert all(torch.allclose(value, other.delta[name], atol=1e-6) for name, value in one.delta.items())


@pytest.mark.parametrize("rule", BEARS_TWO, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("lie", [-50.0, 1e6], ids=["opposite", "wild"])
def test_two_wild_updates_of_eleven_change_little(rule, lie: float) -> None:
    honest = random_updates(9)
    wild = [{name: value * lie for name, value in update.items()} for update in random_updates(2, seed=1)]
    center = matrix(honest).mean(0)
    spread = max(np.linalg.norm(row - center) for row in matrix(honest))
    found = flat(total(rule, [*honest[:4], *wild, *honest[4:]]).delta)
    assert np.linalg.norm(found - center) <= spread
    mean = flat(total(MeanRule(), [*honest, *wild]).delta)
    assert np.linalg.norm(mean - center) > 50 * spread


def test_a_wild_update_moves_the_bounded_mean_by_its_share_of_the_bound_only() -> None:
    honest = random_updates(9)
    wild = {name: value * 1e6 for name, value in random_updates(1, seed=1)[0].items()}
    found = flat(total(NormBound(bound=2.0), [*honest, wild]).delta)
    cut = [row * min(1.0, 2.0 / np.linalg.norm(row)) for row in matrix(honest)]
    assert np.linalg.norm(found - np.sum(cut, 0) / 10) == pytest.approx(2.0 / 10, rel=1e-4)


@pytest.mark.parametrize("rule", BEARS_TWO, ids=lambda rule: type(rule).__name__)
def test_running_statistics_keep_out_of_wild_hands_too(rule) -> None:
    honest = random_updates(9)
    wild = [{name: value + 1e6 for name, value in update.items()} for update in honest[:2]]
    values = matrix(honest, frozenset({"running_var"}))
    found = flat(total(rule, [*wild, *honest]).delta, frozenset({"running_var"}))
    assert (found >= values.min(0) - 0.01).all()
    assert (found <= values.max(0) + 0.01).all()


@pytest.mark.parametrize("rule", [Krum(f=2), MultiKrum(f=2), GeometricMedian()], ids=lambda rule: type(rule).__name__)
def test_distances_are_of_trainable_tensors_only(rule) -> None:
    updates = random_updates(7)
    shifted = [{**u, "running_var": u["running_var"] + 100.0 * index} for index, u in enumerate(updates)]
    found = total(rule, shifted).delta
    assert np.allclose(flat(found), flat(total(rule, updates).delta))


def test_too_few_answers_are_an_error_that_names_the_key() -> None:
    aggregator = Krum(f=2).aggregator(TRAINABLE)
    for index, update in enumerate(random_updates(6)):
        aggregator.add(answer(f"client{index}", update))
    with pytest.raises(NotEnoughClients, match=r"aggregation\.f = 2: krum needs 2 f \+ 3 = 7 .* there are 6.*is kept"):
        aggregator.result()


@pytest.mark.parametrize("count", [1, 3, 1000])
def test_pieces_cover_everything_once(count: int) -> None:
    size = 2 * (ROOM // count) // 10 * 10 + 7 if count > 1 else ROOM + 5
    values = [torch.arange(size).float() + 0.5 * index for index in range(count)]
    seen = torch.zeros(size)
    for place, piece in pieces(values):
        assert torch.equal(piece[-1], values[-1][place])
        seen[place] += 1
        piece.zero_()
    assert bool((seen == 1).all())
    assert values[0][-1] == size - 1
