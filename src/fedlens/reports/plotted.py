"""What plots of several methods show: their means by round, accuracy against cost, and two methods at every client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedlens.reports.figures.rounds import series_of
from fedlens.reports.groups import Group, measure
from fedlens.reports.means import Mean
from fedlens.tracking.summary import last_with

Metrics = Sequence[Mapping[str, Any]]
"""The lines of a run's metrics file."""

Curve = list[tuple[float, Mean]]
"""Round and mean over seeds."""

COSTS = {"megabytes": "megabytes sent", "epsilon": "ε spent"}
"""Figures of `Headline` that an accuracy is held against."""


def mean_curve(runs: Sequence[Metrics], section: str) -> Curve:
    """The mean accuracy of runs by round, in the rounds that all of them evaluated. section: "test" or "clients"."""
    series = [dict(series_of(run, section, "accuracy")) for run in runs]
    places = sorted(set.intersection(*(set(run) for run in series)))
    means = [(place, Mean.of([run[place] for run in series])) for place in places]
    return [(place, mean) for place, mean in means if mean is not None]


def curves(groups: Sequence[Group]) -> dict[str, Curve]:
    """Label → the mean of the figure that is compared, by round."""
    section = "test" if measure(groups) == "accuracy" else "clients"
    found = {group.label: mean_curve([run.metrics for run, _ in group.runs.values()], section) for group in groups}
    return {label: curve for label, curve in found.items() if curve}


@dataclass(frozen=True)
class Trade:
    """What a method reaches, and what that costs. best: no other method reaches as much for less."""

    label: str
    cost: Mean
    accuracy: Mean
    best: bool = False


def trades(groups: Sequence[Group], cost: str) -> list[Trade]:
    """The methods of which cost and accuracy are known, the cheapest first. cost: a figure of `Headline`."""
    figure = measure(groups)
    pairs = [(group.label, group.mean(cost), group.mean(figure)) for group in groups]
    known = [Trade(label, spent, reached) for label, spent, reached in pairs if spent and reached]
    return [
        Trade(one.label, one.cost, one.accuracy, not any(_dominates(other, one) for other in known))
        for one in sorted(known, key=lambda one: one.cost.value)
    ]


def _dominates(one: Trade, other: Trade) -> bool:
    """It is as good in both, and better in one."""
    cost, accuracy = one.cost.value - other.cost.value, one.accuracy.value - other.accuracy.value
    return cost <= 0 <= accuracy and (cost, accuracy) != (0, 0)


def at_clients(base: Group, other: Group) -> dict[str, tuple[float, float]]:
    """Client and seed → its accuracy with both methods, for the seeds that both have and the clients that both tell of.
    No means over seeds: with another seed a client of the same name may hold other images."""
    found: dict[str, tuple[float, float]] = {}
    for seed in sorted(base.runs.keys() & other.runs.keys()):
        one, two = _clients(base, seed), _clients(other, seed)
        found |= {f"{name}, seed {seed}": (one[name], two[name]) for name in sorted(one.keys() & two.keys())}
    return found


def _clients(group: Group, seed: int) -> Mapping[str, float]:
    run, _ = group.runs[seed]
    found = (last_with(run.metrics, "clients") or {}).get("by_client", ())
    return {one["client"]: one["accuracy"] for one in found}
