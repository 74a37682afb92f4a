"""How the harness talks to a contender: "go N" lines in, one JSON line a finished round out.

Between two requests a contender waits on its standard input, so contenders can take turns within one run
without paying their start-up each time.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import version


def requests() -> Iterator[int]:
    """The rounds asked for: 1, 2, 3 …, each when its turn has come; ends when the harness closes the pipe."""
    number = 0
    while line := sys.stdin.readline():
        for _ in range(int(line.removeprefix("go "))):
            number += 1
            yield number


def report(number: int, seconds: float, loss: float, steps: int) -> None:
    """Say that a round is over: its seconds, mean training loss and gradient steps over the whole cohort."""
    print(json.dumps({"round": number, "seconds": seconds, "loss": loss, "steps": steps}), flush=True)


def introduce(*packages: str) -> None:
    """Say which versions run: Python and the given distributions."""
    versions = {"python": platform.python_version()} | {name: version(name) for name in packages}
    print(json.dumps({"versions": versions}), flush=True)
