"""Estimates the remaining time from the work done so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing torch would delay commands that only read runs
    from fedlens.core.types import BatchProgress

FIRST_STEPS = 10
"""Training steps before the first estimate."""


class Estimate:
    """The estimate for a run, from finished rounds and the steps of the current round. Times are seconds of any
    clock."""

    def __init__(self, num_rounds: int, done: int, now: float) -> None:
        self._num_rounds = num_rounds
        self._first = self._done = done
        self._began = self._ended = now
        self._round = 0
        self._from = (now, 0)
        self._left_in_round: float | None = None

    def round(self, number: int, now: float) -> None:
        """Count a finished round."""
        self._done, self._ended, self._left_in_round = number, now, None

    def standing(self, standing: BatchProgress, now: float) -> None:
        """Record progress in the current round."""
        if standing.label or not standing.steps:
            return
        if standing.round != self._round or standing.steps < self._from[1]:
            self._round, self._from = standing.round, (now, standing.steps)
        taken, seconds = standing.steps - self._from[1], now - self._from[0]
        if taken >= FIRST_STEPS:
            self._left_in_round = (standing.all_steps - standing.steps) * seconds / taken

    def left(self, now: float) -> float | None:
        """Seconds until the end of the last round; None while unknown."""
        finished, rest = self._done - self._first, self._num_rounds - self._done
        if finished:
            each = (self._ended - self._began) / finished
            under_way = max(each - (now - self._ended), 0) if self._left_in_round is None else self._left_in_round
            return (rest - 1) * each + under_way if rest else 0.0
        if self._left_in_round is None:
            return None
        return self._left_in_round + (rest - 1) * (now - self._began + self._left_in_round)


def left_of(done: int, total: int, seconds: float) -> float | None:
    """Remaining seconds of work at constant speed; None until something is done."""
    return (total - done) * seconds / done if done else None


def brief(seconds: float) -> str:
    """42.3 → "42 s", 192 → "3 min", 7500 → "2 h 5 min"."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def spent_and_left(seconds: float, left: float | None) -> str:
    """Text such as "1 min 42 s, about 3 min left"."""
    spent = f"{int(seconds) // 60} min {int(seconds) % 60} s" if 60 <= seconds < 600 else brief(seconds)
    return spent + ("" if left is None else f", about {brief(left)} left")
