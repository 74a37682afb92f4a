"""What a run will cost, against ε counted round by round."""

import math

import pytest

from fedlens.privacy.accounting import epsilon
from fedlens.privacy.mechanisms import DPFTRL, Cyclic, Gaussian, Mechanism, Poisson
from fedlens.privacy.plan import plan

MECHANISMS = [Gaussian(1.0, Poisson(0.1)), Gaussian(3.0, Cyclic(4)), DPFTRL(1.0, Cyclic(4), 25)]


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=lambda one: type(one).__name__)
def test_the_curve_is_what_the_ledger_will_say(mechanism: Mechanism) -> None:
    found = plan(mechanism, 25, 1e-5)
    assert [number for number, _ in found.curve] == [3, 5, 8, 10, 13, 15, 18, 20, 23, 25]
    assert [value for _, value in found.curve] == [
        epsilon(mechanism.releases(number), 1e-5).value for number, _ in found.curve
    ]
    assert found.after == epsilon(mechanism.releases(25), 1e-5)
    assert found.affordable == 25


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("budget", [0.01, 2.0, 3.0, 100.0])
def test_how_far_a_budget_reaches(mechanism: Mechanism, budget: float) -> None:
    within = [number for number in range(1, 26) if epsilon(mechanism.releases(number), 1e-5).value <= budget]
    assert plan(mechanism, 25, 1e-5, budget).affordable == max(within, default=0)


def test_a_short_run_has_a_point_for_each_round() -> None:
    assert [number for number, _ in plan(Gaussian(1.0, Poisson(0.1)), 3, 1e-5).curve] == [1, 2, 3]


def test_without_noise_nothing_is_bounded() -> None:
    found = plan(Gaussian(0.0, Poisson(0.1)), 5, 1e-5)
    assert found.after.value == math.inf
    assert {value for _, value in found.curve} == {math.inf}
