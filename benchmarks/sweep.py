"""A sweep of eight tiny runs, several at a time, beside the same runs one after another.

    python benchmarks/sweep.py [--small]

Asked: two at a time take at most 1.15 times half of what one at a time takes. Both include the start of the command.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from statistics import median

import machine

SETTINGS = ("model.name=lenet", "runtime.workers=1", "tracking.tensorboard=false")
ASKED = 1.15


def sweep(jobs: int, runs: int, rounds: int) -> float:
    """Seconds of the whole command."""
    with tempfile.TemporaryDirectory() as logs:
        line = [sys.executable, "-m", "fedlens", "sweep", *SETTINGS, f"seed=0:{runs}"]
        began = time.perf_counter()
        subprocess.run(
            [*line, f"federated.num_rounds={rounds}", f"tracking.dir={logs}", "--jobs", str(jobs)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return time.perf_counter() - began


def main() -> None:
    options, before = machine.parser(__doc__).parse_args(), machine.facts()
    turns, runs, rounds = (1, 2, 1) if options.small else (3, 8, 5)
    taken: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(turns):
        for jobs, seconds in taken.items():
            seconds.append(sweep(jobs, runs, rounds))
    alone, together = (median(seconds) for seconds in taken.values())
    figures = {
        "one_at_a_time_s": alone,
        "two_at_a_time_s": together,
        "ratio_to_half": together / (alone / 2),
        "asked": ASKED,
    }
    for name, value in figures.items():
        print(f"{name:18} {value:.2f}")
    print(machine.save("sweep", before, figures, small=options.small))


if __name__ == "__main__":
    main()
