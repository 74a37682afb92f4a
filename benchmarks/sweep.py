"""A sweep of eight tiny runs, several at a time, beside the same runs one after another; and what a search adds.

    python benchmarks/sweep.py [--small]

Asked: two at a time take at most 1.15 times half of what the runs compute, with the start of the command. What they
compute is the processor time of the command without that of a second one, which finds all runs done: two virtual cores
may share one real core, and then nothing is twice as fast. A search spends at most 2 % of its time on itself: on asking
for trials, on telling what they reached, on its file.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import machine

from fedlens.sweeps.points import Point

SETTINGS = ("model.name=lenet", "runtime.workers=1", "tracking.tensorboard=false")
ASKED = 1.15


def sweep(jobs: int, runs: int, rounds: int) -> tuple[float, float]:
    """Seconds of the whole command, and processor seconds of its runs."""
    with tempfile.TemporaryDirectory() as logs:
        line = [sys.executable, "-m", "fedlens", "sweep", *SETTINGS, f"seed=0:{runs}"]
        line += [f"federated.num_rounds={rounds}", f"tracking.dir={logs}", "--jobs", str(jobs)]
        seconds, processor = timed(line)
        return seconds, processor - timed(line)[1]


def timed(line: list[str]) -> tuple[float, float]:
    """Seconds by the clock, and processor seconds of it and all that it started."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - began, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def own_share(trials: int, rounds: int) -> float:
    """The part of a search's time, one trial at a time, in which no run goes on because of the search."""
    from fedlens.cli import tune
    from fedlens.sweeps import search as searches
    from fedlens.sweeps.methods import methods
    from fedlens.sweeps.space import searched

    spent = 0.0

    class Timed(searches.Search):
        def points(self) -> Iterator[Point]:
            nonlocal spent
            trials = super().points()
            while True:
                began = time.perf_counter()
                point = next(trials, None)
                spent += time.perf_counter() - began
                if point is None:
                    return
                yield point

        def unwanted(self, point: Point, number: int, validation: float | None) -> bool:
            return bool(self._timed(super().unwanted, point, number, validation))

        def ended(self, point: Point, folder: Path | None, failure: str | None) -> None:
            self._timed(super().ended, point, folder, failure)

        def _timed(self, work: Callable[..., Any], *arguments: object) -> Any:
            nonlocal spent
            began = time.perf_counter()
            found = work(*arguments)
            spent += time.perf_counter() - began
            return found

    space, fixed = searched([*SETTINGS, f"federated.num_rounds={rounds}", "optimizer.lr=log:0.001:1"])
    searches.Search = Timed  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as logs:
        found = methods(None, [*fixed, f"tracking.dir={logs}"], [], space, "tune")
        began = time.perf_counter()
        tune.search_all(found, trials, 1, prune=False)
        return spent / (time.perf_counter() - began)


def main() -> None:
    options, before = machine.parser(__doc__).parse_args(), machine.facts()
    turns, runs, rounds = (1, 2, 1) if options.small else (3, 8, 5)
    alone, together = ([sweep(jobs, runs, rounds) for _ in range(turns)] for jobs in (1, 2))
    figures = {
        "one_at_a_time_s": median(seconds for seconds, _ in alone),
        "two_at_a_time_s": median(seconds for seconds, _ in together),
        "ratio_to_half": median(seconds / (computed / 2) for seconds, computed in together),
        "asked": ASKED,
        "search_own_share": own_share(runs, rounds),
        "search_asked": 0.02,
    }
    for name, value in figures.items():
        print(f"{name:18} {value:.3f}")
    print(machine.save("sweep", before, figures, small=options.small))


if __name__ == "__main__":
    main()
