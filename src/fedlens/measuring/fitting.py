"""Which settings fit into memory: of those that take less and less of it, the first that a short run works with."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from types import ModuleType

import torch

from fedlens.build.builders import Progress, build_data, build_plan
from fedlens.config.schema import Config
from fedlens.data.types import ClientRows, FederatedData
from fedlens.measuring.choices import Choice, Facts, Smaller, shown, smaller
from fedlens.measuring.measurement import Measurement, measure
from fedlens.runtimes.local import may_inherit
from fedlens.session.run import UserObjects
from fedlens.training.evaluation import EVALUATION_BATCH

BUDGET = 60.0
"""Seconds of all measurements together."""

STEPS = 2
"""Of each client in a measurement. The first one makes the optimizer's state; the second has it beside all else."""


@dataclass(frozen=True)
class Fitting:
    """What was found. fits: the settings to take; memory: bytes of all processes of their run, on a GPU those that
    PyTorch held there. Where none are known: smallest, what takes least and is too much, or reason, why nothing is
    known."""

    fits: Smaller | None = None
    memory: int = 0
    smallest: Choice | None = None
    reason: str = ""


def find_fit(config: Config, given: UserObjects, progress: Progress, seconds: float) -> Fitting:
    """Measure what fits where `config` does not, for at most so many seconds.

    Raises:
        FedLensError: the images or the model cannot be had.
        KeyboardInterrupt: passed on when the measurement has ended.
    """
    ends, forks = time.monotonic() + seconds, may_inherit()
    if not forks and given != UserObjects():
        return Fitting(reason="a process that could be measured cannot have what Python has given to this run")
    data = given.data or build_data(config, progress)
    cohort = build_plan(config).sampler.most(len(data.clients))
    facts = Facts.of(config, data, cohort, given.model)
    steps = smaller(config, facts, max(len(client.train) for client in data.clients))
    if not steps:
        return Fitting(reason="no setting is left that takes less")
    return Fitter(replace(given, data=data), facts, forks, progress, ends).find(steps)


@dataclass(frozen=True)
class Fitter:
    """Measures settings of a run. forks: a measurement is a fork of this process; ends: when, on `time.monotonic`."""

    given: UserObjects
    facts: Facts
    forks: bool
    progress: Progress
    ends: float

    def find(self, steps: Sequence[Smaller]) -> Fitting:
        """The first of `steps` that works. Each one takes less than those before, so a measurement halves what is
        left to look at."""
        low, high, found, last = 0, len(steps), 0, Measurement()
        while low < high:
            middle = (low + high) // 2
            last = self._measured(steps[middle])
            if worked(last, self.facts.workers):
                high, found = middle, last.memory
            elif last.failure:
                low = middle + 1
            else:
                break
        if high < len(steps):
            return Fitting(steps[high], found)
        if low < high:
            too_much = f", and {shown(steps[low - 1].choice.values)} does not fit" if low else ""
            return Fitting(reason=f"a short run showed too little in the time there was{too_much}")
        return Fitting(smallest=steps[-1].choice) if last.full else Fitting(reason=last.failure or "")

    def _measured(self, step: Smaller) -> Measurement:
        show = self.progress(f"measuring {shown(step.choice.values)}")
        began, left = time.monotonic(), max(round(self.ends - time.monotonic()), 1)
        try:
            with nullcontext() if self.forks else without_main():
                return measure(
                    sampled_config(step.config),
                    seconds=0,
                    ends=self.ends,
                    rounds=1,
                    given=self.given,
                    prepare=in_fork if self.forks else sampled,
                    start_method="fork" if self.forks else "spawn",
                    look=lambda: show(min(int(time.monotonic() - began), left - 1), left),
                )
        finally:
            show(left, left)


def worked(found: Measurement, workers: int) -> bool:
    """Whether a whole round was seen, or where time has ended before, two steps of each worker."""
    trained = bool(found.steps) and found.steps[-1].done >= STEPS * workers
    return found.failure is None and (bool(found.rounds) or (trained and not found.ended))


def sampled_config(config: Config) -> Config:
    """`config` for one round in which each client steps twice, and all of the model is trained at once."""
    federated = config.federated.model_copy(update={"num_rounds": 1, "local_epochs": STEPS})
    transfer = config.transfer.model_copy(update={"unfreeze_every": 0, "probe_rounds": 0})
    return config.model_copy(update={"federated": federated, "transfer": transfer})


def sampled(config: Config, given: UserObjects) -> UserObjects:
    """What is `given`, with as few images as take as much memory as all: every client trains on a batch of the one that
    has most, and one batch of each evaluation is left."""
    data = given.data or build_data(config, lambda _label: lambda _done, _all: None)
    return replace(given, data=sample(data, config.federated.batch_size))


def in_fork(config: Config, given: UserObjects) -> UserObjects:
    """As `sampled`, in a fork of a process that may have computed with several threads: a fork lacks these."""
    torch.set_num_threads(1)
    return sampled(config, given)


def sample(data: FederatedData, batch_size: int) -> FederatedData:
    """See `sampled`."""
    largest = max(data.clients, key=lambda client: len(client.train))
    train = largest.train[:batch_size]
    held_out = {
        split: max((getattr(client, split) for client in data.clients), key=len)[:EVALUATION_BATCH]
        for split in ("val", "test")
    }
    clients = tuple(ClientRows(client.name, train, **held_out) for client in data.clients)
    return replace(data, clients=clients, test=data.test[:EVALUATION_BATCH])


@contextmanager
def without_main() -> Iterator[None]:
    """A spawned process imports the main program of its parent again. That may be a script which trains when it is
    imported, and a measurement needs nothing of it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
