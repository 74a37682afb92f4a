"""How the coordinator's memory grows with the clients, and a large cohort's time against many small ones.

    .venv/bin/python benchmarks/memory.py

Fashion-MNIST and LeNet. Memory: the coordinator's largest resident set over 5 rounds of 10 clients, of 10 clients and
of 10,000, taken in turn. Time: rounds over 1,000 clients of 60 images against ten times a round over 100 of them,
without evaluation and without the first round; runs taken in turn.
"""

from __future__ import annotations

from statistics import median

import machine
from fedlens_run import CONFIGS, FedLensRun, spent

CONFIG = CONFIGS / "speed-lenet.yaml"
SMALL = ("data.source=sample",)


def peak_mib(clients: int, *overrides: str) -> float:
    """The coordinator's peak resident set in MiB with so many clients, 10 of them a round."""
    size = (
        f"data.partition.clients={clients}",
        f"federated.fraction_fit={10 / clients}",
        "federated.num_rounds=5",
    )
    with FedLensRun(CONFIG, *size, *overrides) as run:
        for _ in run.rounds(memory=True):
            pass
        return run.peak_rss / 2**20


def seconds_a_round(cohort: int, clients: int, rounds: int, *overrides: str) -> float:
    """Median seconds of a round over `cohort` of so many clients."""
    size = (
        f"data.partition.clients={clients}",
        f"federated.fraction_fit={cohort / clients}",
        f"federated.min_fit_clients={cohort}",
        f"federated.num_rounds={rounds}",
    )
    with FedLensRun(CONFIG, *size, *overrides) as run:
        return median([spent(line) for _, line in run.rounds()][1:])


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--repetitions", type=int, default=3)
    options, before = parser.parse_args(), machine.facts()
    repetitions = range(1 if options.small else options.repetitions)
    clients, many, overrides = (40, 4, SMALL) if options.small else (1000, 31, ())
    peaks = [(peak_mib(10, *overrides), peak_mib(10 * clients, *overrides)) for _ in repetitions]
    times = [
        (seconds_a_round(clients, clients, 4, *overrides), seconds_a_round(clients // 10, clients, many, *overrides))
        for _ in repetitions
    ]
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
    print(machine.save("memory", before, figures | {"peaks": peaks, "times": times}, small=options.small))


if __name__ == "__main__":
    main()
