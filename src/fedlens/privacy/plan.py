"""What the rounds of a run will cost, before any of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedlens.privacy.accounting import Epsilon, epsilon
from fedlens.privacy.mechanisms import Mechanism

POINTS = 10
"""Of the curve, at most."""


@dataclass(frozen=True)
class Plan:
    """after: ε of the whole run. curve: (round, ε after it), up to the last round. affordable: rounds that the budget
    allows."""

    after: Epsilon
    curve: tuple[tuple[int, float], ...]
    affordable: int


def plan(mechanism: Mechanism, rounds: int, delta: float, budget: float | None = None) -> Plan:
    """ε at `delta` over a run of so many rounds, and how far `budget` reaches; None: no limit.

    Raises:
        ConfigError: dp-accounting is not installed.
    """

    def after(number: int) -> Epsilon:
        return epsilon(mechanism.releases(number), delta)

    whole = after(rounds)
    curve = tuple((number, after(number).value) for number in _marks(rounds))
    return Plan(whole, curve, rounds if budget is None else _reach(after, rounds, budget))


def _marks(rounds: int) -> Sequence[int]:
    return sorted({-(-rounds * part // POINTS) for part in range(1, POINTS + 1)})


def _reach(after: Callable[[int], Epsilon], rounds: int, budget: float) -> int:
    """The most rounds, up to `rounds`, whose ε is within `budget`: by bisection, since ε never falls."""
    low, high = 0, rounds + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if after(middle).value <= budget else (low, middle)
    return low
