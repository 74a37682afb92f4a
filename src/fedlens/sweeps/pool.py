"""Several runs at once, each in a process of its own and on cores of its own: as many as cores, GPUs and memory allow.

A run's default number of workers follows the cores that its process may use, so runs share the machine without further
settings. How much memory a run takes is measured while the first one runs; the next one begins when there is room.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

import psutil
import torch

from fedlens.core.machine import core_numbers, memory_of, use_gpu
from fedlens.core.records import RoundRecord
from fedlens.errors import FedLensError
from fedlens.sweeps.points import Point
from fedlens.tracking.observer import Observer, Silent

Work = Callable[[Point, Observer], None]
"""Does the run of a point, or goes on with it, and tells the observer."""

LOOK_SECONDS, MEASURE_SECONDS = 0.2, 1.0

MARGIN = 1.25
"""A run begins where so many times the memory of the largest one is free."""

UNMEASURED = 2
"""So many runs may begin before the memory of one is known, while half of the machine's memory is free."""

PATIENCE = 30.0
"""Seconds that a run has to end after it was told so."""


class Screen(Protocol):
    """What is told of the runs, by their points."""

    def note(self, point: Point, text: str) -> None: ...

    def began(self, point: Point, done: int) -> None:
        """Its rounds begin, after `done` earlier ones."""
        ...

    def round(self, point: Point, number: int, accuracy: float | None) -> None:
        """A round is done; accuracy: on the test images, where it was measured."""
        ...

    def working(self, point: Point, label: str, done: int, total: int) -> None:
        """Work before the rounds."""
        ...

    def ended(self, point: Point, folder: Path | None, failure: str | None) -> None: ...

    def wait(self) -> None:
        """Time goes by."""
        ...


@dataclass
class Running:
    """A run's process. memory: the most that it took so far, in bytes; measured: it has trained a round; unwanted: it
    was told to end."""

    point: Point
    process: BaseProcess
    connection: Connection
    place: dict[str, Any]
    memory: int = 0
    measured: bool = False
    unwanted: bool = False
    folder: Path | None = None
    failure: str | None = "its process ended without a word"


START_METHOD = "fork" if sys.platform == "linux" else "spawn"
"""How the process of a run begins. A forked one has all libraries at once."""


@dataclass
class Pool:
    """jobs: runs at a time; `at_once` tells how many cores and GPUs allow. gpus: how many the runs may use. unwanted:
    whether a run is to end now, asked after each round with its number and the accuracy on the validation images; its
    failure is None then."""

    work: Work
    screen: Screen
    jobs: int
    gpus: int = 0
    unwanted: Callable[[Point, int, float | None], bool] = lambda _point, _number, _validation: False
    start_method: str = START_METHOD
    running: list[Running] = field(default_factory=list)
    largest: int = 0

    def run(self, points: Iterable[Point]) -> None:
        """Do all of them; each is taken when it can begin. A run that fails does not stop the others."""
        waiting, more, measured = iter(points), True, 0.0
        free = deque(places(self.jobs, self.gpus))
        with self._ended_with_this():
            while more or self.running:
                while more and free and self._room():
                    point = next(waiting, None)
                    more = point is not None
                    if point is not None:
                        self.running.append(self._start(point, free.popleft()))
                self._listen()
                if time.monotonic() - measured > MEASURE_SECONDS:
                    measured = time.monotonic()
                    for one in self.running:
                        self._measure(one)
                for one in [one for one in self.running if not one.process.is_alive()]:
                    self._end(one)
                    free.append(one.place)
                self.screen.wait()

    def _room(self) -> bool:
        """Whether there is memory for another run. What running ones will still take is kept for them."""
        memory = psutil.virtual_memory()
        if not self.running:
            return True
        if not self.largest:
            return len(self.running) < UNMEASURED and memory.available > memory.total / 2
        owed = sum(max(self.largest - one.memory, 0) for one in self.running)
        return bool(memory.available - owed > MARGIN * self.largest)

    def _start(self, point: Point, place: dict[str, Any]) -> Running:
        context: Any = multiprocessing.get_context(self.start_method)
        ours, theirs = context.Pipe()
        foreign = [ours, *(one.connection for one in self.running)] if self.start_method == "fork" else []
        process = context.Process(target=do_point, args=(self.work, point, theirs, place, foreign), name=point.label)
        process.start()
        theirs.close()
        return Running(point, process, ours, place)

    def _listen(self) -> None:
        """Take what the runs tell, as it comes."""
        by_connection: dict[Any, Running] = {one.connection: one for one in self.running}
        for ready in wait([*by_connection, *(one.process.sentinel for one in self.running)], LOOK_SECONDS):
            if ready in by_connection:
                self._hear(by_connection[ready])

    def _hear(self, one: Running) -> bool:
        """Take one message; False where no more will come."""
        try:
            self._take(one, *json.loads(one.connection.recv_bytes()))
        except (EOFError, OSError):
            return False
        return True

    def _take(self, one: Running, kind: str, *told: Any) -> None:
        match kind:
            case "began":
                one.folder = Path(told[0])
                self.screen.began(one.point, told[1])
            case "round":
                if not one.measured:  # a short run ends before its turn to be measured comes
                    one.measured = True
                    self._measure(one)
                number, test, validation = told
                self.screen.round(one.point, number, test)
                if not one.unwanted and self.unwanted(one.point, number, validation):
                    one.unwanted = True
                    one.process.terminate()
            case "working":
                self.screen.working(one.point, *told)
            case "note":
                self.screen.note(one.point, *told)
            case "ended":
                (one.failure,) = told

    def _measure(self, one: Running) -> None:
        one.memory = max(one.memory, memory_of(one.process.pid))
        if one.measured:
            self.largest = max(self.largest, one.memory)

    def _end(self, one: Running) -> None:
        while one.connection.poll() and self._hear(one):
            pass
        self.running.remove(one)
        one.connection.close()
        if one.failure and one.process.exitcode == -signal.SIGKILL:
            one.failure = "it was killed, perhaps by the system's memory guard: use --jobs 1, or a smaller model"
        if one.unwanted:
            one.failure = None
        self.screen.ended(one.point, one.folder, one.failure)

    @contextmanager
    def _ended_with_this(self) -> Iterator[None]:
        """All runs end when this process is told to. What their finished rounds made is on the disk."""
        try:
            yield
        finally:
            for one in self.running:
                one.process.terminate()
            for one in self.running:
                one.process.join(PATIENCE)
                one.process.kill()


def at_once(points: Sequence[Point]) -> int:
    """Runs at a time, as far as cores and GPUs go. A run that names its workers needs a core for each; one on a Ray
    cluster takes all of that."""
    sections = [point.config.runtime for point in points]
    if any(section.name == "ray" for section in sections):
        return 1
    workers = max(((section.named_workers or 1) * section.threads_per_worker for section in sections), default=1)
    fitting = max(len(core_numbers()) // workers, 1)
    return min(fitting, gpus(points) or fitting, len(points))


def gpus(points: Sequence[Point]) -> int:
    """How many GPUs the runs may use; 0: they use the CPU."""
    if all(point.config.runtime.device == "cpu" for point in points):
        return 0
    return torch.cuda.device_count()  # asks the driver, and leaves the GPUs alone


def places(count: int, gpus: int = 0) -> list[dict[str, Any]]:
    """Cores and GPU of each of `count` runs at a time: cores are divided, and shared only where there are too few."""
    all_cores = core_numbers()
    size = max(len(all_cores) // max(count, 1), 1)
    made = []
    for number in range(count):
        start = number * size % len(all_cores)
        made.append({"cores": all_cores[start : start + size], "gpu": number % gpus if gpus else None})
    return made


# -- in the process of a run -------------------------------------------------------------------------------------------


class Telling(Silent):
    """Observer that tells the sweep. A sweep that is gone ends the run as Ctrl-C would."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._told = 0.0

    def start(self, header: Mapping[str, str], num_rounds: int, done: int) -> None:
        self.tell("began", header["folder"], done)

    def note(self, text: str) -> None:
        self.tell("note", text)

    def progress(self, label: str) -> Callable[[int, int], None]:
        def show(done: int, total: int) -> None:
            if time.monotonic() - self._told > LOOK_SECONDS:
                self._told = time.monotonic()
                self.tell("working", label, done, total)

        return show

    def round(self, record: RoundRecord) -> None:
        validation = record.validation.accuracy if record.validation else None
        self.tell("round", record.round, record.test.accuracy if record.test else None, validation)

    def failed(self, error: FedLensError) -> None:
        """The run has ended with `error`."""
        self.tell("ended", str(error))

    def tell(self, *message: Any) -> None:
        try:
            self._connection.send_bytes(json.dumps(message).encode())
        except OSError as error:
            raise KeyboardInterrupt from error


def do_point(
    work: Work,
    point: Point,
    connection: Connection,
    place: Mapping[str, Any],
    foreign: Sequence[Connection],
    telling: Callable[[Connection], Telling] = Telling,
) -> None:
    """Do `work` at its `place`, and tell through `connection` how it goes and how it ends."""
    for other in foreign:  # a copy of the sweep's end, left open here, would hide that it has ended
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all: the sweep decides
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, place["cores"])
    if place["gpu"] is not None:
        use_gpu(place["gpu"])
    observer = telling(connection)
    with suppress(KeyboardInterrupt):
        try:
            work(point, observer)
            observer.tell("ended", None)
        except FedLensError as error:
            observer.failed(error)
        except Exception as error:
            traceback.print_exc()
            observer.tell("ended", f"{type(error).__name__}: {error}")


def _interrupt(number: int, _frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one must not interrupt the end
    raise KeyboardInterrupt
