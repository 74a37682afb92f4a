"""What secure aggregation costs.

    .venv/bin/python benchmarks/secure_aggregation.py masks     MB of mask a second, one core
    .venv/bin/python benchmarks/secure_aggregation.py noise     seconds for a client's share of noise, one core
    .venv/bin/python benchmarks/secure_aggregation.py cohorts   keys, bytes and seconds of a client as the cohort grows

`cohorts` plays the server and one client of each cohort, with an update of 1.5 million numbers; the server's seconds
are those of opening one client's mask. Whole rounds: `privacy.py rounds`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import machine
import numpy as np
from rich.console import Console
from rich.table import Table

from fedlens.core.randomness import KEY_BYTES, key_stream, random_bytes
from fedlens.privacy.discrete import discrete_gaussian
from fedlens.secure_aggregation.client import ClientState, advertise, mask, own_mask, share
from fedlens.secure_aggregation.graph import holders_needed, neighbours_needed
from fedlens.secure_aggregation.keys import ADVERT_BYTES, SIGNATURE_BYTES
from fedlens.secure_aggregation.masks import add_mask
from fedlens.secure_aggregation.session import Session
from fedlens.secure_aggregation.shares import SEALED_BYTES, combine, split

COORDINATES = 1_528_106
"""Of MobileNetV3-small."""
THRESHOLD = 2 / 3
LEAST_MB = 500
"""What is asked: megabytes of mask a second and core."""


MOST_SECONDS = 1.0
"""What is asked: seconds for a client's share of noise."""


def seconds(work: Callable[[], object], repetitions: int) -> float:
    """The median."""
    taken = []
    for _ in range(repetitions):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return median(taken)


def masks(small: bool) -> dict[str, Any]:
    """Key stream made and added to a vector in place."""
    count, repetitions = (100_000, 2) if small else (8 * COORDINATES, 15)
    found = {}
    for dtype in (np.uint32, np.uint64):
        vector = np.zeros(count, dtype)
        key = random_bytes(KEY_BYTES)
        taken = seconds(lambda vector=vector, key=key: add_mask(vector, key), repetitions)  # type: ignore[misc]
        found[vector.dtype.name] = {"mb_a_second": vector.nbytes / 1e6 / taken, "asked": LEAST_MB}
        print(f"{vector.dtype.name}: {found[vector.dtype.name]['mb_a_second']:,.0f} MB/s; asked: {LEAST_MB}")
    return {"masks": found}


def noise(small: bool) -> dict[str, Any]:
    """A share of discrete Gaussian noise for an update, as large as clients add it, with either size of numbers."""
    count, found = 10_000 if small else COORDINATES, {}
    for bits, deviation in ((32, 2.0**21 * 1.3), (64, 2.0**53 * 1.3)):
        stream = key_stream(random_bytes(KEY_BYTES))
        taken = seconds(lambda stream=stream, s=deviation: discrete_gaussian(stream, count, s), 2 if small else 15)  # type: ignore[misc]
        found[f"{bits} bits"] = {"numbers": count, "seconds": taken, "asked": MOST_SECONDS}
        print(f"{bits} bits: {taken:.3f} s for {count:,} numbers; asked: {MOST_SECONDS:g} s for {COORDINATES:,}")
    return {"noise": found}


def cohorts(small: bool) -> dict[str, Any]:
    """One client among cohorts of several sizes."""
    table, found = Table("cohort", "neighbours", "kB sent besides", "client s", "server s a client"), {}
    for size in (10,) if small else (10, 100, 1_000, 10_000):
        neighbours = neighbours_needed(size, THRESHOLD)
        threshold = holders_needed(neighbours + 1, THRESHOLD)
        sent = ADVERT_BYTES + neighbours * SEALED_BYTES + KEY_BYTES + SIGNATURE_BYTES + (neighbours + 1) * KEY_BYTES
        row = {
            "neighbours": neighbours,
            "bytes_sent_besides": sent,
            "client_seconds": client_seconds(neighbours, threshold, 1_000 if small else COORDINATES),
            "server_seconds_a_client": server_seconds(neighbours, threshold, 1_000 if small else COORDINATES),
        }
        found[str(size)] = row
        shown = (f"{row[name]:.3f}" for name in ("client_seconds", "server_seconds_a_client"))
        table.add_row(f"{size:,}", str(neighbours), f"{sent / 1e3:.1f}", *shown)
    Console(width=100).print(table)
    return {"cohorts": found}


def client_seconds(neighbours: int, threshold: int, coordinates: int) -> float:
    """A client's keys, shares and masks."""
    session = Session.new(1, 0)
    adverts = {f"other{index}": advertise(f"other{index}", session)[1] for index in range(neighbours)}
    vector = np.zeros(coordinates, np.uint64)

    def work() -> ClientState:
        state, _ = advertise("client", session)
        state, _, _ = share(state, adverts, threshold, threshold, neighbours + 1)
        return mask(state, adverts, vector)

    return seconds(work, 3)


def server_seconds(neighbours: int, threshold: int, coordinates: int) -> float:
    """Opening the mask of one client that stays, and removing it."""
    session, vector = Session.new(1, 0), np.zeros(coordinates, np.uint64)
    shares = dict(enumerate(split(random_bytes(KEY_BYTES), threshold, neighbours + 1), start=1))

    def work() -> None:
        add_mask(vector, own_mask(combine(shares, threshold), "client", session), subtract=True)

    return seconds(work, 3)


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("what", nargs="?", choices=["masks", "noise", "cohorts"], default="masks")
    options, before = parser.parse_args(), machine.facts()
    measured = {
        "masks": lambda: masks(options.small),
        "noise": lambda: noise(options.small),
        "cohorts": lambda: cohorts(options.small),
    }[options.what]()
    print(machine.save(f"secure-aggregation-{options.what}", before, measured, small=options.small))


if __name__ == "__main__":
    main()
