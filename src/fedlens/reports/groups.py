"""Runs that differ in their seed alone, as one: means over seeds, paired differences, ranks, and what a target took.

mean         with Student's t interval over seeds: the uncertainty of the mean if other seeds were drawn
difference   of two groups on the seeds that both have, with the interval of the mean difference. Seeds decide cohorts,
             divisions and initial weights in both alike, so a pair differs by less than two runs of other seeds do
test         Wilcoxon 1945, "Individual comparisons by ranking methods", two-sided and exact; with fewer than
             `FEWEST_PAIRS` pairs it cannot come below 0.05
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from fedlens.core.trees import flat
from fedlens.core.words import short_names
from fedlens.reports.headline import Headline
from fedlens.reports.load import LoadedRun
from fedlens.reports.means import Mean
from fedlens.tracking.summary import spent_epsilon

FEWEST_PAIRS = 6
"""The smallest p of n pairs is 2 · 2⁻ⁿ: 0.0625 for five."""

NOT_A_METHOD = ("tracking", "seed", "runtime", "server", "plugins")
"""Sections that do not change what is learnt."""


@dataclass(frozen=True)
class Group:
    """label: the name of its runs, such as a sweep's case; else what differs from the other groups, "strategy=fedprox
    lr=0.1". runs: by seed, of equal seeds the last; replaced: runs of a seed before its last."""

    label: str
    runs: Mapping[int, tuple[LoadedRun, Headline]]
    replaced: int = 0

    @property
    def lines(self) -> list[Headline]:
        return [line for _, line in self.runs.values()]

    def mean(self, figure: str) -> Mean | None:
        """Of a figure of `Headline`, over the seeds."""
        return Mean.of([getattr(line, figure) for line in self.lines])

    def figures(self, figure: str) -> dict[int, float]:
        """Seed → the figure, where it is known."""
        found = {seed: getattr(line, figure) for seed, (_, line) in self.runs.items()}
        return {seed: value for seed, value in found.items() if value is not None}


@dataclass(frozen=True)
class Difference:
    """Of `label` minus the group that it is held against. p: of Wilcoxon's test; None with too few pairs."""

    label: str
    mean: Mean
    p: float | None


@dataclass(frozen=True)
class Reached:
    """What a run had used in the round in which it first reached a target. epsilon: None where none is counted."""

    rounds: int
    megabytes: float
    seconds: float
    virtual_seconds: float | None
    epsilon: float | None


def grouped(found: Sequence[tuple[LoadedRun, Headline]]) -> list[Group]:
    """The groups, in the order of their first runs."""
    by_method: dict[str, list[tuple[LoadedRun, Headline]]] = {}
    methods: dict[str, Mapping[str, Any]] = {}
    for run, line in found:
        method = flat({key: value for key, value in run.config.items() if key not in NOT_A_METHOD})
        identity = json.dumps([method, line.fingerprint], sort_keys=True, default=str)
        methods.setdefault(identity, method)
        by_method.setdefault(identity, []).append((run, line))
    labels = _named(list(by_method.values())) or _labels(
        list(methods.values()), [members[0][1] for members in by_method.values()]
    )
    return [_group(label, members) for label, members in zip(labels, by_method.values(), strict=True)]


def _group(label: str, members: Sequence[tuple[LoadedRun, Headline]]) -> Group:
    by_seed = {_seed(run): (run, line) for run, line in members}
    return Group(label, dict(sorted(by_seed.items())), len(members) - len(by_seed))


def repeated(groups: Sequence[Group]) -> bool:
    """Whether there are seeds to take a mean over."""
    return any(len(group.runs) > 1 for group in groups)


def measure(groups: Sequence[Group]) -> str:
    """The figure to compare: of the shared model on the test images, unless clients of some run have models of their
    own or nobody has test images: then of the clients."""
    lines = [line for group in groups for line in group.lines]
    shared = all(line.accuracy is not None and not line.personal for line in lines)
    return "accuracy" if shared else "client_accuracy"


def differences(base: Group, groups: Sequence[Group], figure: str) -> list[Difference]:
    """Of every other group minus `base`, on the seeds that both have."""
    found = []
    for group in groups:
        own, other = group.figures(figure), base.figures(figure)
        pairs = [own[seed] - other[seed] for seed in sorted(own.keys() & other.keys())]
        if group is not base and (mean := Mean.of(pairs)):
            found.append(Difference(group.label, mean, wilcoxon(pairs)))
    return found


def wilcoxon(pairs: Sequence[float]) -> float | None:
    """The p of differences; None where they are too few, or all zero."""
    if len(pairs) < FEWEST_PAIRS or not any(pairs):
        return None
    from scipy import stats  # takes seconds to import

    return float(stats.wilcoxon(pairs).pvalue)


def ranks(groups: Sequence[Group], figure: str) -> dict[str, float]:
    """Label → the mean of its ranks over the seeds that all groups have, 1 being the best; ties share theirs. Empty
    where there are no such seeds."""
    values = [group.figures(figure) for group in groups]
    seeds = set.intersection(*(set(one) for one in values))
    if not seeds:
        return {}
    return {
        group.label: fmean(_rank(own[seed], [other[seed] for other in values]) for seed in seeds)
        for group, own in zip(groups, values, strict=True)
    }


def _rank(value: float, values: Sequence[float]) -> float:
    """Its place among the values, the largest having 1; equal ones share the mean of theirs. (SciPy's takes seconds to
    import.)"""
    return 1 + sum(other > value for other in values) + (values.count(value) - 1) / 2


def reached(run: LoadedRun, target: float, figure: str) -> Reached | None:
    """What it took until the accuracy was `target` or more; None where it never was."""
    section = "test" if figure == "accuracy" else "clients"
    sent = seconds = 0.0
    for line in run.metrics:
        sent += line["bytes_up"] + line["bytes_down"]
        seconds += sum(line["seconds"].values())
        accuracy = (line[section] or {}).get("accuracy")
        if accuracy is not None and accuracy >= target:
            return Reached(
                line["round"], sent / 1e6, seconds, line.get("virtual_seconds"), spent_epsilon(line.get("measures", {}))
            )
    return None


def _seed(run: LoadedRun) -> int:
    seed = run.config.get("seed", 0)
    return seed if isinstance(seed, int) else 0


def _named(groups: Sequence[Sequence[tuple[LoadedRun, Headline]]]) -> list[str]:
    """The names that the runs were given, as cases of a sweep are, without the seed; empty where some have none, where
    two groups have one, or where names are only values of keys, which other sweeps have as well."""
    names = [{_name(run) for run, _ in members} for members in groups]
    single = [next(iter(found)) for found in names if len(found) == 1]
    spoken = all(any("=" not in word for word in name.split()) for name in single)
    return single if spoken and len(set(single)) == len(groups) else []


def _name(run: LoadedRun) -> str:
    name = run.config.get("tracking", {}).get("name") or ""
    return " ".join(re.sub(r"(?<!\S)seed=\d+(?!\S)", " ", str(name)).split())


def _labels(methods: Sequence[Mapping[str, Any]], lines: Sequence[Headline]) -> list[str]:
    """What differs between the methods. Keys that some of them lack are those of a block that differs by itself, and
    are named only where nothing else tells the methods apart."""
    keys = dict.fromkeys(key for method in methods for key in method)
    values = {key: {json.dumps(one.get(key, _ABSENT), default=str) for one in methods} for key in keys}
    absent = json.dumps(_ABSENT)
    named: list[str] = []
    for differing in (
        [key for key in keys if len(values[key] - {absent}) > 1],
        [key for key in keys if len(values[key]) > 1],
    ):
        short = short_names(differing)
        words = [" ".join(f"{short[key]}={one[key]}" for key in differing if key in one) for one in methods]
        named = [text or line.strategy for text, line in zip(words, lines, strict=True)]
        if len(set(named)) == len(named):
            return named
    return [f"{name}, {line.data}" for name, line in zip(named, lines, strict=True)]


_ABSENT = "\0absent"
