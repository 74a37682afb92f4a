"""`runtime.workers=auto`: how many workers, found by a short run with each number before the first round."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedlens.build.builders import Progress, build_data, build_plan
from fedlens.config.blocks import SCHEDULE
from fedlens.config.schema import Config
from fedlens.core.machine import cores
from fedlens.core.words import count
from fedlens.data.types import FederatedData
from fedlens.measuring.expectation import Work, expect
from fedlens.measuring.fitting import without_main
from fedlens.measuring.measurement import measure
from fedlens.runtimes.local import may_inherit
from fedlens.schedules.base import Asynchronous
from fedlens.session.run import UserObjects
from fedlens.sweeps.points import Point
from fedlens.sweeps.pool import gpus
from fedlens.tracking.observer import Observer
from fedlens.training.device import one_thread, resolve_device

SECONDS = 2.0
"""That training is watched with each number, after the first step of each worker."""

LONGEST = 30.0
"""Seconds after which a measurement ends in any case."""

ON_A_GPU = (1, 2, 4, 6)
"""Processes that are tried on each GPU."""

TOO_SLOW = f"too slow to be seen in {LONGEST:g} s"


@dataclass(frozen=True)
class Division:
    """Of a machine into workers, and threads of each."""

    workers: int
    threads: int

    def __str__(self) -> str:
        return f"{count(self.workers, 'worker')} of {count(self.threads, 'thread')}"

    def of(self, config: Config) -> Config:
        """`config`, so divided."""
        return _with(config, "runtime", workers=self.workers, threads_per_worker=self.threads)


@dataclass
class Found:
    """seconds: of a round with each division that worked; failed: why others did not."""

    seconds: dict[Division, float] = field(default_factory=dict)
    failed: dict[Division, str] = field(default_factory=dict)

    @property
    def best(self) -> Division | None:
        return min(self.seconds, key=lambda division: self.seconds[division], default=None)

    def told(self) -> str:
        """ "2 workers of 1 thread: 0.71 s; 1 worker of 2 threads: 3 s", the fastest first, then why others failed."""
        seen = sorted(self.seconds.items(), key=lambda pair: pair[1])
        return "; ".join(
            [f"{division}: {seconds:.2g} s" for division, seconds in seen]
            + [f"{division}: {reason}" for division, reason in self.failed.items()]
        )


def with_workers(config: Config, given: UserObjects, observer: Observer) -> Config:
    """`config` with the number of workers, and of threads, whose rounds are the fastest here, if it asks for that.
    Where it cannot be measured, with those that it has by default; a note says what was found.

    Raises:
        FedLensError: the images cannot be had.
    """
    if config.runtime.workers != "auto":
        return config
    default = _with(config, "runtime", workers=None)
    if given != UserObjects() and not may_inherit():
        observer.note(
            "runtime.workers=auto: not measured, because what Python has given cannot be handed to a measuring process "
            "here; the default is taken"
        )
        return default
    with one_thread():  # measurements are forked: a process that has computed with several threads cannot be
        data = given.data or build_data(config, observer.progress)
    clients, device = at_a_time(config, len(data.clients)), resolve_device(config.runtime.device).type
    number = max(gpus([Point("", config)]), 1)
    tried = on_cores(clients, threads=may_have_threads(given)) if device == "cpu" else on_gpus(clients, number)
    if len(tried) == 1:
        observer.note(
            f"runtime.workers=auto: {tried[0]}, the only choice for {count(clients, 'client')} at a time here"
        )
        return tried[0].of(config)
    found = _measured(tried, default, given, data, observer.progress, go_on=device == "cpu")
    best = found.best
    taken = f"{best} are taken" if best else "the default is taken"
    observer.note(f"runtime.workers=auto: {taken}; seconds of a round: {found.told()}")
    return best.of(config) if best else default


def at_a_time(config: Config, available: int) -> int:
    """The most clients that train at the same time."""
    schedule, cohort = SCHEDULE.choose(config.schedule), build_plan(config).sampler.most(available)
    wanted = schedule.concurrency or cohort if isinstance(schedule, Asynchronous) else cohort
    return max(wanted, 1)


def on_cores(clients: int, *, threads: bool) -> list[Division]:
    """Divisions of the cores for so many clients at a time: a worker for each of them, or for a half, a quarter, … of
    the cores. Without `threads`, several of a worker are no choice."""
    all_cores = cores()
    most = min(all_cores, clients)
    if not threads:
        return [Division(most, 1)]
    halves = {all_cores >> times for times in range(all_cores.bit_length())}
    numbers = sorted({most, *(number for number in halves if 0 < number < most)}, reverse=True)
    return [Division(number, all_cores // number) for number in numbers]


def on_gpus(clients: int, number: int) -> list[Division]:
    """One process, and as many on each of so many GPUs."""
    several = {number * each for each in ON_A_GPU if number * each <= clients}
    return [Division(workers, 1) for workers in sorted({1, *several})]


def may_have_threads(given: UserObjects) -> bool:
    """Whether workers may have several threads. They begin anew then, and are no copies of this process: they cannot
    have what Python has given, and would import the user's program, which may train when it is imported."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    own_command = file is None or Path(file).stem == "fedlens" or Path(file).parent.name == "fedlens"
    return given == UserObjects() and own_command


def _measured(
    tried: Sequence[Division],
    config: Config,
    given: UserObjects,
    data: FederatedData,
    progress: Progress,
    *,
    go_on: bool,
) -> Found:
    """What is seen of each of `tried`, until one is slower than the best before it. `go_on`: also after one that has
    failed; not where the next one takes more memory."""
    found = Found()
    for division in tried:
        seconds = _seconds_a_round(division, division.of(config), given, data, progress)
        if isinstance(seconds, str):
            found.failed[division] = seconds
            if not go_on:
                break
            continue
        found.seconds[division] = seconds
        if found.best != division:
            break
    return found


def _seconds_a_round(
    division: Division, config: Config, given: UserObjects, data: FederatedData, progress: Progress
) -> float | str:
    """Or why nothing was seen."""
    show, began, forks = progress(f"measuring {division}"), time.monotonic(), may_inherit()
    try:
        with nullcontext() if forks else without_main():
            seen = measure(
                _with(config, "federated", evaluate_every=0, evaluate_clients_every=0),
                seconds=SECONDS,
                ends=began + LONGEST,
                workers=division.workers,
                given=UserObjects(given.model, data, given.strategy) if forks else UserObjects(),
                start_method="fork" if forks else "spawn",
                look=lambda: show(min(int(time.monotonic() - began), int(LONGEST) - 1), int(LONGEST)),
            )
    finally:
        show(int(LONGEST), int(LONGEST))
    if seen.failure:
        return seen.failure
    expected = expect(seen, Work.of(config, data, division.workers))
    return expected.training if expected else TOO_SLOW


def _with(config: Config, section: str, **values: Any) -> Config:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})
