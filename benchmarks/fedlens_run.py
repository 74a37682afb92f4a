"""`fedlens run` as a user starts it, watched from outside through the metrics that it writes."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import psutil

Line = dict[str, Any]
"""One line of metrics.jsonl."""

POLL_S = 0.005

FEDLENS = Path(sys.executable).with_name("fedlens")
CONFIGS = Path(__file__).parent / "configs"
QUIET = ("tracking.tensorboard=false", "tracking.report=false")


class FedLensRun:
    """A running `fedlens run CONFIG OVERRIDES…` that logs into a temporary folder; use it in a `with` block."""

    def __init__(self, config: Path, *overrides: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fedlens-benchmark-")
        self._logs, self._output = Path(self._folder.name) / "logs", Path(self._folder.name) / "output.txt"
        command = [
            sys.executable,
            "-m",
            "fedlens",
            "run",
            str(config),
            *QUIET,
            *overrides,
            f"tracking.dir={self._logs}",
        ]
        with self._output.open("w") as output:
            self.started = time.perf_counter()
            self.process = psutil.Popen(command, stdout=output, stderr=output)
        self.peak_rss = 0
        self._waiting: deque[Line] = deque()
        self._metrics: TextIO | None = None
        self._torn = ""

    def __enter__(self) -> FedLensRun:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it as Ctrl-C does, and take its folder away."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(60)
        if self._metrics:
            self._metrics.close()
        self._folder.cleanup()

    def rounds(self, *, memory: bool = False) -> Iterator[tuple[float, Line]]:
        """Each round when its line arrives: seconds since the command, and the line. It looks 200 times a second at a
        file, which takes a hundredth of a core. `memory`: `peak_rss` follows the coordinator's, which takes more: a
        fifth of a core, when it looked a thousand times a second.

        Raises:
            SystemExit: the run failed; with the end of what it printed.
        """
        over = False
        while not over:
            over = self.process.poll() is not None
            self._collect()
            arrived = time.perf_counter() - self.started
            while self._waiting:
                yield arrived, self._waiting.popleft()
            if memory:
                self._watch_memory()
            time.sleep(POLL_S)
        if self.process.returncode != 0:
            raise SystemExit(f"fedlens run failed:\n{self.output()[-3000:]}")

    def output(self) -> str:
        """What it has printed so far."""
        return self._output.read_text()

    def forget(self) -> None:
        """Leave out the rounds that are over by now."""
        self._collect()
        self._waiting.clear()

    def _collect(self) -> None:
        found = None if self._metrics else next(self._logs.glob("*/metrics.jsonl"), None)
        if found:
            self._metrics = found.open()
        if self._metrics:
            *whole, self._torn = (self._torn + self._metrics.read()).split("\n")
            self._waiting.extend(json.loads(line) for line in whole)

    def _watch_memory(self) -> None:
        try:
            self.peak_rss = max(self.peak_rss, self.process.memory_info().rss)
        except psutil.NoSuchProcess:
            return


def spent(line: Line, *, without: tuple[str, ...] = ("evaluate",)) -> float:
    """A round's seconds over its phases."""
    phases: dict[str, float] = line["seconds"]
    return sum(seconds for phase, seconds in phases.items() if phase not in without)
