"""pFedMe's inner steps and the shared model's move, on paper."""

import pytest
import torch
from tests.personalization.benches import Single, bench, plus, slope, stands, step
from torch import nn

from fedlens.personalization.base import NO_TERMS
from fedlens.personalization.pfedme import PFedMe
from fedlens.strategies.base import LocalTerms

RECEIVED = (0.3, -0.2)
METHOD = PFedMe(lam=2.0, personal_steps=3, personal_lr=0.1)


def by_hand(rounds: int, lr: float, push: float = 0.0):
    w = theta = RECEIVED
    for _ in range(rounds):
        for _ in range(3):
            theta = step(theta, plus(slope(theta), plus(theta, w, -1.0), 2.0), 0.1)
        w = step(w, plus((push, push), plus(w, theta, -1.0), 2.0), lr)
    return w, theta


@pytest.mark.parametrize("rounds", [1, 4])
def test_w_follows_theta(rounds: int) -> None:
    home = bench(Single(), *RECEIVED, epochs=rounds, lr=0.25)
    METHOD.train(home, NO_TERMS)
    w, theta = by_hand(rounds, 0.25)
    assert stands(home) == pytest.approx(w, abs=1e-6)
    assert home.kept["head.weight"].flatten().tolist() == pytest.approx(theta, abs=1e-6)
    assert w != pytest.approx(theta, abs=1e-3)


def test_theta_steps_plainly_whatever_the_optimizer() -> None:
    home = bench(Single(), *RECEIVED, epochs=2, lr=0.25, momentum=0.9)
    METHOD.train(home, NO_TERMS)
    assert home.kept["head.weight"].flatten().tolist() == pytest.approx(by_hand(2, 0.25)[1], abs=1e-6)


def test_a_strategys_correction_moves_w() -> None:
    home = bench(Single(), *RECEIVED, epochs=2, lr=0.25)
    METHOD.train(home, LocalTerms(correction=lambda w: torch.full_like(w, 0.4)))
    w, theta = by_hand(2, 0.25, push=0.4)
    assert stands(home) == pytest.approx(w, abs=1e-6)
    assert home.kept["head.weight"].flatten().tolist() == pytest.approx(theta, abs=1e-6)


class Normed(Single):
    """x → (a, b) times x; a BatchNorm looks on, and adds nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2, affine=False)

    def forward(self, inputs):
        out = super().forward(inputs)
        self.norm(out.detach())
        return out


def test_w_and_theta_have_running_statistics_of_their_own() -> None:
    """One batch of x = 1, so the mean of what comes in is (a, b): of w as received, of θ before each of its three
    steps; the running mean, 0 at first, moves a tenth of the way to each."""
    home = bench(Normed(), *RECEIVED, lr=0.25)
    METHOD.train(home, NO_TERMS)
    assert home.statistics()["norm.running_mean"].tolist() == pytest.approx([0.03, -0.02], abs=1e-6)
    mean, theta = (0.0, 0.0), RECEIVED
    for _ in range(3):
        mean = plus((0.9 * mean[0], 0.9 * mean[1]), theta, 0.1)
        theta = step(theta, plus(slope(theta), plus(theta, RECEIVED, -1.0), 2.0), 0.1)
    assert home.kept["norm.running_mean"].tolist() == pytest.approx(mean, abs=1e-6)
    assert stands(home) == pytest.approx(by_hand(1, 0.25)[0], abs=1e-6)


def test_at_home_theta_is_used() -> None:
    home = bench(Single(), *RECEIVED, kept={"head.weight": torch.tensor([[1.0], [-2.0]])})
    METHOD.predict(home)
    assert stands(home) == [1.0, -2.0]


def test_its_metrics_are_those_of_the_steps() -> None:
    metrics = METHOD.train(bench(Single(), *RECEIVED, epochs=2), NO_TERMS)
    assert metrics["loss"].weight == 2 * 3
    assert metrics["accuracy"].value == 1.0
