"""How the coordinator's memory grows with the clients, and a large cohort's time against many small ones.

    .venv/bin/python benchmarks/memory.py

Fashion-MNIST and LeNet. Memory: the coordinator's largest resident set over 5 rounds of 10 clients, of 10 clients and
of 10,000, taken in turn. Time: rounds over 1,000 clients of 60 images against ten times a round over 100 of them,
without evaluation and without the first round; runs taken in turn.
"""

from __future__ import annotations

import argparse
from statistics import median

import machine
from fedlens_run import CONFIGS, FedLensRun, spent

CONFIG = CONFIGS / "speed-lenet.yaml"


def peak_mib(clients: int) -> float:
    """The coordinator's peak resident set in MiB with so many clients, 10 of them a round."""
    overrides = (
        f"data.partition.clients={clients}",
        f"federated.fraction_fit={10 / clients}",
        "federated.num_rounds=5",
    )
    with FedLensRun(CONFIG, *overrides) as run:
        for _ in run.rounds(poll_s=0.01):
            pass
        return run.peak_rss / 2**20


def seconds_a_round(cohort: int, rounds: int) -> float:
    """Median seconds of a round over `cohort` of 1,000 clients."""
    overrides = (
        "data.partition.clients=1000",
        f"federated.fraction_fit={cohort / 1000}",
        f"federated.min_fit_clients={cohort}",
        f"federated.num_rounds={rounds}",
    )
    with FedLensRun(CONFIG, *overrides) as run:
        return median([spent(line) for _, line in run.rounds(poll_s=0.01)][1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    repetitions, before = range(parser.parse_args().repetitions), machine.facts()
    peaks = [(peak_mib(10), peak_mib(10_000)) for _ in repetitions]
    times = [(seconds_a_round(1000, rounds=4), seconds_a_round(100, rounds=31)) for _ in repetitions]
    figures = {
        "peak_mib_10_clients": median(few for few, _ in peaks),
        "peak_mib_10000_clients": median(many for _, many in peaks),
        "memory_ratio": median(many / few for few, many in peaks),
        "seconds_cohort_1000": median(large for large, _ in times),
        "seconds_cohort_100": median(small for _, small in times),
        "cohort_ratio": median(large / (10 * small) for large, small in times),
    }
    for name, value in figures.items():
        print(f"{name:24} {value:.3f}")
    print(machine.save("memory", before, figures | {"peaks": peaks, "times": times}))


if __name__ == "__main__":
    main()
