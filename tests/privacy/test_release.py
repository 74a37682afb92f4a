"""What the server adds to a round's sum, and what it divides by."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fedlens.aggregation.mean import WeightedMean
from fedlens.core.types import ClientReport, ClientResult, MeanMetric
from fedlens.errors import PrivacyBudgetExceeded
from fedlens.privacy.base import LEAVES
from fedlens.privacy.bounded import BoundedUpdate
from fedlens.privacy.ledger import Ledger, Spent
from fedlens.privacy.mechanisms import DPFTRL, Cyclic, Gaussian, Poisson
from fedlens.privacy.noise import insecure_key, normal_from, normal_like
from fedlens.privacy.release import Claim, PrivateSum
from fedlens.strategies.base import ClientUpdate
from fedlens.transforms.base import EncodingContext, ReceivingContext, TransformChain

FORMS = {"w": torch.empty(2, 3, device="meta"), "b": torch.empty(3, device="meta")}
CLIP = 2.0


def sums(tmp_path, sigma: float, cohort: float = 4.0, budget: float | None = None, seed: int = 1) -> PrivateSum:
    normal = lambda number: normal_from(insecure_key(seed, number))  # noqa: E731
    claim = Claim(Gaussian(sigma, Cyclic(1)), 1e-5, budget, CLIP, 40, cohort, spread=sigma / cohort, normal=normal)
    return PrivateSum(claim, Ledger(tmp_path / "privacy.jsonl", claim.terms), FORMS)


def update(size: float, weight: float = 7.0) -> ClientResult:
    """Its joint norm is size · √9 = 3 · size."""
    payload = {name: torch.full(form.shape, size) for name, form in FORMS.items()}
    return ClientResult(1, "train", ClientReport("a", weight, {}), payload)


def released(private: PrivateSum, *results: ClientResult, round_number: int = 1):
    chain = TransformChain((BoundedUpdate(CLIP),))
    aggregator = private.around(chain.around(WeightedMean(), ReceivingContext(1, frozenset(FORMS))), round_number, {})
    for result in results:
        aggregator.add(result)
    return aggregator.result()


def test_the_sum_of_clipped_updates_is_divided_by_the_expected_cohort(tmp_path):
    """Two of an expected four clients answer. The first is clipped from norm 6 to 2, so each number from 2 to 2/3; the
    second, of norm 0.3, stays. Weights of 7 and 1 count alike."""
    total = released(sums(tmp_path, sigma=0.0), update(2.0), update(0.1, weight=1.0))
    assert total.delta["w"].tolist() == [pytest.approx([(2 / 3 + 0.1) / 4] * 3, rel=1e-5)] * 2
    assert total.measures["privacy/epsilon"] == float("inf")


def test_a_round_without_an_answer_is_noise_alone(tmp_path):
    total = released(sums(tmp_path, sigma=1.5))
    drawn = normal_like(FORMS, normal_from(insecure_key(1, 1)))
    for name, value in total.delta.items():  # σ · clip / expected cohort
        assert torch.equal(value, (drawn[name] * 1.5 * CLIP / 4).float())
    assert total.count == 0


def test_the_noise_has_the_variance_that_is_accounted_for(tmp_path):
    """A planted bug, half the noise, would have a quarter of the variance."""
    private = sums(tmp_path, sigma=1.5)
    drawn = torch.cat(
        [value.flatten() for n in range(1, 400) for value in released(private, round_number=n).delta.values()]
    )
    expected = (1.5 * CLIP / 4) ** 2
    assert float(drawn.var()) == pytest.approx(expected, rel=5 * (2 / len(drawn)) ** 0.5)


def test_the_noise_is_in_the_sum_once_however_many_answer(tmp_path):
    still = [replace(update(0.0)) for _ in range(8)]
    assert torch.equal(
        released(sums(tmp_path / "a", 1.0), *still).delta["w"], released(sums(tmp_path / "b", 1.0)).delta["w"]
    )


@pytest.fixture(autouse=True)
def folders(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()


def test_a_release_beyond_the_budget_is_refused_before_it_is_made(tmp_path):
    private = sums(tmp_path, sigma=2.0)
    after_two = private.claim.epsilon(Spent(2)).value
    private = sums(tmp_path, sigma=2.0, budget=after_two + 1e-6)
    released(private, round_number=1)
    assert private.over(2) is None
    released(private, round_number=2)
    assert private.over(3).startswith(f"the privacy budget is spent: ε = {after_two:.3g} at δ = 1e-05, another round")
    with pytest.raises(PrivacyBudgetExceeded, match="round 3: the privacy budget is spent"):
        released(private, round_number=3)
    assert private.spent == Spent(2, 0)


def test_a_round_that_is_begun_again_spends_again(tmp_path):
    private = sums(tmp_path, sigma=2.0)
    once = released(private, round_number=1).measures["privacy/epsilon"]
    again = released(private, round_number=1).measures["privacy/epsilon"]
    assert again > once
    assert again == pytest.approx(private.claim.epsilon(Spent(2)).value)


@pytest.mark.parametrize(
    "mechanism", [Gaussian(2.0, Cyclic(10)), DPFTRL(2.0, Cyclic(10), rounds=40), Gaussian(2.0, Poisson(0.1))]
)
def test_a_repeated_round_may_not_exceed_the_budget_either(tmp_path, mechanism):
    """Once more round 1 costs a whole participation where groups take turns: more than round 2 would."""
    normal = lambda number: normal_from(insecure_key(1, number))  # noqa: E731
    free = Claim(mechanism, 1e-5, None, CLIP, 40, 4.0, spread=0.5, normal=normal)
    claim = replace(free, budget=free.epsilon(Spent(1)).value + 1e-9)
    private = PrivateSum(claim, Ledger(tmp_path / "privacy.jsonl", claim.terms), FORMS)
    released(private, round_number=1)
    with pytest.raises(PrivacyBudgetExceeded):
        released(private, round_number=1)
    assert private.spent == Spent(1, 0)
    assert (private.over(2) is None) == (free.epsilon(Spent(2)).value <= claim.budget)


def test_noise_that_clients_add_is_spent_before_they_begin(tmp_path):
    """However the attempt ends: here nobody answers, twice."""
    claim = Claim(Gaussian(2.0, Cyclic(1)), 1e-5, None, CLIP, 40, 4.0, spread=0.5)
    private = PrivateSum(claim, Ledger(tmp_path / "privacy.jsonl", claim.terms), FORMS)
    for spent in (Spent(1, 0), Spent(1, 1)):
        aggregator = private.around(WeightedMean(), 1, {})
        assert private.spent == spent
        assert aggregator.result() is None
        assert private.spent == spent


def test_a_client_sends_a_clipped_update_of_weight_one_and_few_metrics():
    bounded = BoundedUpdate(CLIP)
    ctx = EncodingContext(1, "a", frozenset(FORMS), {}, 0, 0)
    sent = bounded.encode(ClientUpdate(update(2.0).payload, weight=123.0), ctx).update
    assert sent.weight == 1.0
    assert float(sent.payload["b"][0]) == pytest.approx(2 / 3, rel=1e-5)
    metrics = dict.fromkeys((*LEAVES, "loss", "update_norm", "drift", "accuracy"), MeanMetric(1, 1))
    assert set(bounded.released(metrics)) == set(LEAVES)
