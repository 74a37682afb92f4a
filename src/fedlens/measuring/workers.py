"""`runtime.workers=auto`: how many workers, found by a short run with each number before the first round."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from fedlens.build.builders import Progress, build_data, build_plan
from fedlens.config.schema import Config
from fedlens.core.machine import cores
from fedlens.core.words import count
from fedlens.data.types import FederatedData
from fedlens.measuring.expectation import Work, expect
from fedlens.measuring.fitting import without_main
from fedlens.measuring.measurement import measure
from fedlens.runtimes.local import may_inherit
from fedlens.session.run import UserObjects
from fedlens.sweeps.points import Point
from fedlens.sweeps.pool import gpus
from fedlens.tracking.observer import Observer
from fedlens.training.device import one_thread

SECONDS = 2.0
"""That training is watched with each number, after the first step of each worker."""

LONGEST = 30.0
"""Seconds after which a measurement ends in any case."""

ON_A_GPU = (1, 2, 4, 6)
"""Processes that are tried on one GPU."""


@dataclass(frozen=True)
class Division:
    """Of a machine into workers, and threads of each."""

    workers: int
    threads: int

    def __str__(self) -> str:
        return f"{count(self.workers, 'worker')} of {count(self.threads, 'thread')}"

    def of(self, config: Config) -> Config:
        """`config`, so divided."""
        values = {"workers": self.workers, "threads_per_worker": self.threads}
        return config.model_copy(update={"runtime": config.runtime.model_copy(update=values)})


def with_workers(config: Config, given: UserObjects, observer: Observer) -> Config:
    """`config` with the number of workers, and of threads, whose rounds are the fastest here, if it asks for that.
    Where it cannot be measured, with those that it has without a word; a note says either.

    Raises:
        FedLensError: the images cannot be had.
    """
    if config.runtime.workers != "auto":
        return config
    default = config.model_copy(update={"runtime": config.runtime.model_copy(update={"workers": None})})
    if given != UserObjects() and not may_inherit():
        observer.note("runtime.workers=auto: a process that could be measured cannot have what Python has given")
        return default
    with one_thread():  # measurements are forked: a process that has computed with several threads cannot be
        data = given.data or build_data(config, observer.progress)
    cohort = build_plan(config).sampler.most(len(data.clients))
    tried = list(divisions(cohort, gpu=gpus([Point("", config)]) > 0))
    if len(tried) == 1:
        observer.note(f"runtime.workers=auto: {tried[0]}, the only choice for {count(cohort, 'client')} a round here")
        return tried[0].of(config)
    found = _measured(tried, default, given, data, observer.progress)
    if not found:
        observer.note(
            f"runtime.workers=auto: too slow to be measured in {LONGEST:g} s, or failed, so the default counts"
        )
        return default
    (chosen, seconds), *others = sorted(found.items(), key=lambda pair: pair[1])
    beside = "".join(f"; {other}: {slower:.2g} s" for other, slower in others)
    observer.note(f"runtime.workers=auto: {chosen}, a round in {seconds:.2g} s{beside}")
    return chosen.of(config)


def divisions(cohort: int, *, gpu: bool) -> Iterator[Division]:
    """What may be fastest for rounds of `cohort` clients. On the CPU each has half as many workers as the one before,
    and all cores as threads; on a GPU each has more processes."""
    if gpu:
        yield from (Division(workers, 1) for workers in ON_A_GPU if workers <= max(cohort, 1))
        return
    workers = min(cores(), max(cohort, 1))
    while workers:
        yield Division(workers, cores() // workers)
        workers //= 2


def _measured(
    tried: Sequence[Division], config: Config, given: UserObjects, data: FederatedData, progress: Progress
) -> dict[Division, float]:
    """Seconds of a round with each of `tried` that works, until one is slower than the best before it."""
    found: dict[Division, float] = {}
    for division in tried:
        seconds = _seconds_a_round(division, division.of(config), given, data, progress)
        if seconds is not None:
            found[division] = seconds
            if seconds > min(found.values()):
                break
    return found


def _seconds_a_round(
    division: Division, config: Config, given: UserObjects, data: FederatedData, progress: Progress
) -> float | None:
    """None: it failed, or was too slow to be seen."""
    show, began, forks = progress(f"measuring {division}"), time.monotonic(), may_inherit()
    unevaluated = {"evaluate_every": 0, "evaluate_clients_every": 0}
    config = config.model_copy(update={"federated": config.federated.model_copy(update=unevaluated)})
    try:
        with nullcontext() if forks else without_main():
            seen = measure(
                config,
                seconds=SECONDS,
                ends=began + LONGEST,
                workers=division.workers,
                given=UserObjects(given.model, data, given.strategy) if forks else UserObjects(),
                start_method="fork" if forks else "spawn",
                look=lambda: show(min(int(time.monotonic() - began), int(LONGEST) - 1), int(LONGEST)),
            )
    finally:
        show(int(LONGEST), int(LONGEST))
    expected = None if seen.failure else expect(seen, Work.of(config, data, division.workers))
    return expected.training if expected else None
