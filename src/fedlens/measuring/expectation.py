"""How long a whole run takes, from a measurement of its beginning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean

import torch

from fedlens.build.builders import build_algorithm, build_plan
from fedlens.build.runtimes import client_infos
from fedlens.config.schema import Config
from fedlens.core.types import Task
from fedlens.data.types import FederatedData
from fedlens.measuring.measurement import EVALUATIONS, FEATURES, Measurement, Seen
from fedlens.runtimes.local import share_out

COHORTS = 5
"""Rounds whose cohorts are looked at: they differ in size and in images."""


@dataclass(frozen=True)
class Work:
    """What a run has to do. steps: of one round, mean over the first cohorts; longest: of them those of the worker that
    has most; evaluations: rounds that are evaluated on the server's images, clients: and on the clients' own."""

    rounds: int
    steps: float
    longest: float
    workers: int
    evaluations: int
    clients: int

    @classmethod
    def of(cls, config: Config, data: FederatedData, workers: int) -> Work:
        """Raises NotEnoughClients: the data has fewer clients than a round needs."""
        federated, infos = config.federated, client_infos(data, torch.device("cpu"))
        examples = {client.name: client.examples for client in infos}
        passes = build_algorithm(config).personalization.passes(federated.local_epochs)
        steps = {name: passes * math.ceil(images / federated.batch_size) for name, images in examples.items()}
        sampler = build_plan(config).sampler
        every, longest = [], []
        for number in range(1, min(COHORTS, federated.num_rounds) + 1):
            tasks = [Task(client.name, number, "train", {}) for client in sampler.choose(number, infos)]
            loads = [sum(steps[task.client] for task in share) for share in share_out(tasks, examples, workers)]
            every.append(sum(loads))
            longest.append(max(loads))
        return cls(
            federated.num_rounds,
            max(fmean(every), 1),  # a drawn cohort may be empty
            max(fmean(longest), 1),
            workers,
            _times(federated.evaluate_every, federated.num_rounds),
            _times(federated.evaluate_clients_every, federated.num_rounds),
        )


def _times(every: int, rounds: int) -> int:
    """How many of `rounds` are evaluated: every so many, and the last."""
    return math.ceil(rounds / every) if every else 0


@dataclass(frozen=True)
class Expectation:
    """What a measurement says of the whole run, in seconds; None: it was not seen.

    step        one training step, all workers together
    training    one round without evaluation
    evaluation  on the server's images, once
    clients     on the clients' own images, once
    features    of a frozen backbone, once
    """

    step: float
    training: float
    evaluation: float | None
    clients: float | None
    features: float | None
    work: Work

    def beside(self, other: Expectation | None) -> Expectation:
        """With what only `other` has seen: evaluations take about as long with other settings."""
        if other is None:
            return self
        return replace(
            self,
            evaluation=other.evaluation if self.evaluation is None else self.evaluation,
            clients=other.clients if self.clients is None else self.clients,
        )

    def faster(self, again: Expectation) -> Expectation:
        """Of two measurements of the same settings the faster one: other programs only ever make a run slower."""
        first, second = sorted((self, again), key=lambda one: one.training)
        return first.beside(second)

    @property
    def whole(self) -> float:
        """Seconds of the whole run, as far as they are known."""
        work = self.work
        evaluations = work.evaluations * (self.evaluation or 0) + work.clients * (self.clients or 0)
        return work.rounds * self.training + evaluations

    @property
    def left_out(self) -> list[str]:
        """What `whole` does not hold because it was not seen."""
        missing = ["evaluations"] * bool(self.evaluation is None and self.work.evaluations)
        return missing + ["the clients' own evaluations"] * bool(self.clients is None and self.work.clients)


def expect(found: Measurement, work: Work) -> Expectation | None:
    """What `found` says of the whole run; None where too little was seen."""
    training = _training(found, work)
    if training is None:
        return None
    evaluation = _mean([one.evaluation for one in found.rounds if not one.clients])
    both = _mean([one.evaluation for one in found.rounds if one.clients])
    clients = None if both is None else max(both - (evaluation or 0), 0.0)
    if evaluation is None:
        parts = [_for_all(found.work[label]) for label in EVALUATIONS if label in found.work]
        evaluation = sum(part or 0.0 for part in parts) if any(parts) else None
    features = _for_all(found.work[FEATURES]) if FEATURES in found.work else None
    return Expectation(training / work.steps, training, evaluation, clients, features, work)


def _training(found: Measurement, work: Work) -> float | None:
    """Seconds of a round without evaluation. The first round and the first steps take longer than others, so they count
    only where there is nothing else."""
    rounds = found.rounds
    if len(rounds) > 1:
        return fmean(one.at - before.at - one.evaluation for before, one in pairwise(rounds))
    rate = _rate([seen for seen in found.steps if seen.round == 1], work.workers)
    if rate is not None:
        return work.longest * work.workers / rate
    return rounds[0].seconds if rounds else None


def _rate(steps: Sequence[Seen], workers: int) -> float | None:
    """Steps a second of all workers. They step at about the same moments, so only whole steps of all are counted: from
    some count to one that is a multiple of `workers` higher. The first step of each is left out if there are others."""
    if not steps:
        return None
    many = steps[-1].done - steps[0].done >= 2 * workers
    first = next(seen for seen in steps if seen.done >= steps[0].done + many * workers)
    whole = (steps[-1].done - first.done) // workers * workers
    last = next(seen for seen in steps if seen.done >= first.done + whole)
    return (last.done - first.done) / (last.at - first.at) if whole else None


def _for_all(seen: Sequence[Seen]) -> float | None:
    """Seconds that all images take, if each takes as long as those that were seen; None: too few were."""
    if len(seen) < 2 or seen[-1].done <= seen[0].done:
        return None
    return (seen[-1].at - seen[0].at) / (seen[-1].done - seen[0].done) * seen[-1].all


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
