"""One measurement: a real run that ends when enough is known of it.

It is done by a process of its own. So its memory is its own, and a full memory ends that process alone.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import torch

from fedlens.config.plugins import load_plugins
from fedlens.config.schema import Config
from fedlens.core.machine import core_numbers, first_to_be_killed, memory_of
from fedlens.core.records import RoundRecord
from fedlens.core.types import BatchProgress
from fedlens.errors import FedLensError, OutOfMemory
from fedlens.session.run import UserObjects, execute
from fedlens.sweeps.points import Point
from fedlens.sweeps.pool import START_METHOD, Telling, do_point
from fedlens.tracking.observer import Observer
from fedlens.tracking.run_dir import RunDir

LOOK_SECONDS = 0.1
PATIENCE = 10.0
"""Seconds that a measurement has to end after it was told so."""

KILLED = "it was killed, perhaps by the system's memory guard"

FEATURES = "computing features"
EVALUATIONS = ("test images", "validation images")


@dataclass(frozen=True)
class Seen:
    """One message. at: seconds on the clock of the machine; round: which one; done: steps or images; all: images."""

    at: float
    done: int
    round: int = 0
    all: int = 0


@dataclass(frozen=True)
class Round:
    """A finished round. at: seconds on the clock of the machine; seconds: of all phases but the evaluation;
    evaluation: its seconds; clients: the clients' own images were evaluated, too."""

    at: float
    seconds: float
    evaluation: float
    clients: bool


@dataclass
class Measurement:
    """What is known of a run. memory: the most that all its processes took, in bytes; gpu: the most that PyTorch held
    on the GPU, in bytes, 0 without one; work: what was told of work with images, by its name; ended: its process did;
    failure: why it failed; full: because memory was full."""

    memory: int = 0
    gpu: int = 0
    rounds: list[Round] = field(default_factory=list)
    steps: list[Seen] = field(default_factory=list)
    work: dict[str, list[Seen]] = field(default_factory=lambda: defaultdict(list))
    ended: bool = False
    failure: str | None = None
    full: bool = False

    def take(self, kind: str, *told: Any) -> None:
        """Note one message of the process."""
        match kind:
            case "steps":
                at, number, done, self.gpu = told
                if done and (not self.steps or (self.steps[-1].round, self.steps[-1].done) != (number, done)):
                    self.steps.append(Seen(at, done, number))
            case "round":
                at, seconds, evaluation, clients, self.gpu = told
                self.rounds.append(Round(at, seconds, evaluation, clients))
            case "working":
                label, at, done, of = told
                self.work[label].append(Seen(at, done, all=of))
            case "ended":
                self.ended, (self.failure,) = True, told
            case "full":
                self.ended, self.full, (self.failure,) = True, True, told

    def enough(self, seconds: float, rounds: int, workers: int) -> bool:
        """Whether what was seen spans `seconds`, after a first round or a first step, which take longer than others,
        and so many rounds."""
        if len(self.rounds) > 1:
            return len(self.rounds) >= rounds and self.rounds[-1].at - self.rounds[0].at >= seconds
        if rounds or not self.steps:
            return False
        first, last = self.steps[0], self.steps[-1]
        return last.done - first.done >= FEWEST_STEPS * workers and last.at - first.at >= seconds


FEWEST_STEPS = 2
"""Of each worker, after its first one."""


class Gauge(Telling):
    """Observer that tells what a measurement needs, each with its moment."""

    def progress(self, label: str) -> Callable[[int, int], None]:
        last = 0.0

        def show(done: int, total: int) -> None:
            nonlocal last
            if (now := time.monotonic()) - last > LOOK_SECONDS or done == total:
                last = now
                self.tell("working", label, now, done, total)

        return show

    def standing(self, standing: BatchProgress) -> None:
        if not standing.label:
            self.tell("steps", time.monotonic(), standing.round, standing.steps, _gpu_memory())

    def round(self, record: RoundRecord) -> None:
        evaluation = record.seconds.get("evaluate", 0.0)
        others = sum(record.seconds.values()) - evaluation
        self.tell("round", time.monotonic(), others, evaluation, bool(record.clients), _gpu_memory())

    def failed(self, error: FedLensError) -> None:
        if isinstance(error, OutOfMemory):
            self.tell("full", error.fact)
        else:
            super().failed(error)


def _gpu_memory() -> int:
    """The most that PyTorch held on the GPU in this process, in bytes."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0


Prepare = Callable[[Config, UserObjects], UserObjects]
"""(configuration, what is given) → what the run is given."""


def as_given(_config: Config, given: UserObjects) -> UserObjects:
    """The run is given just that."""
    return given


@dataclass(frozen=True)
class ShortRun:
    """A run in `folder`, which nobody looks at later. A class, because other processes than forked ones are sent
    it. given: what the run has in place of what is configured, such as decoded images; prepare: makes it in the process
    of the run."""

    folder: Path
    given: UserObjects
    prepare: Prepare

    def __call__(self, point: Point, observer: Observer) -> None:
        first_to_be_killed()
        load_plugins(point.config.plugins)
        given = self.prepare(point.config, self.given)
        execute(point.config, RunDir.create(self.folder, "measured"), given, observer, ())


def measured_config(config: Config) -> Config:
    """`config` without what only a reader of the run needs. Each round is evaluated on the server's images, each second
    one on the clients' own too, where they are at all: so both show their seconds."""
    federated = config.federated
    often = {
        "evaluate_every": min(federated.evaluate_every, 1),
        "evaluate_clients_every": 2 * bool(federated.evaluate_clients_every),
    }
    quiet = dict.fromkeys(("tensorboard", "mlflow", "wandb", "report", "pictures"), False) | {"names": None}
    return config.model_copy(
        update={
            "federated": federated.model_copy(update=often),
            "tracking": config.tracking.model_copy(update=quiet),
        }
    )


def measure(
    config: Config,
    *,
    seconds: float,
    ends: float,
    rounds: int = 0,
    workers: int = 1,
    given: UserObjects = UserObjects(),  # noqa: B008
    prepare: Prepare = as_given,
    start_method: str = START_METHOD,
    look: Callable[[], None] = lambda: None,
) -> Measurement:
    """Run `config` until what was seen of it spans `seconds`, at most until `ends` on `time.monotonic`.

    workers       that step at about the same moments
    rounds        fewest rounds to see, if there is the time; 0: some steps are enough
    given         what the run has in place of what is configured; a process that is not forked reads images itself
    prepare       called with it in the process of the run
    start_method  how the process begins; one that has computed with several threads cannot be forked
    look          called often meanwhile
    """
    found = Measurement()
    with tempfile.TemporaryDirectory(prefix="fedlens-measuring-", ignore_cleanup_errors=True) as folder:
        point = Point("measured", measured_config(config))
        known = given if start_method == "fork" else replace(given, data=None)
        short = ShortRun(Path(folder), known, prepare)
        with _process(short, point, start_method) as (process, connection):
            while not found.ended and not found.enough(seconds, rounds, workers) and time.monotonic() < ends:
                if not _listen(process, connection, found):
                    break
                found.memory = max(found.memory, memory_of(os.getpid()))
                look()
            process.join(0 if process.is_alive() else PATIENCE)
            if found.failure is None and not found.ended and process.exitcode is not None:
                found.full = process.exitcode == -signal.SIGKILL
                found.failure = KILLED if found.full else "its process died"
    return found


def _listen(process: BaseProcess, connection: Connection, found: Measurement) -> bool:
    """Take what is told within a moment; False: nothing more will come."""
    wait([connection, process.sentinel], LOOK_SECONDS)
    try:
        while connection.poll():
            found.take(*json.loads(connection.recv_bytes()))
    except (EOFError, OSError):
        return False
    return process.is_alive() or connection.poll()


@contextmanager
def _process(work: ShortRun, point: Point, start_method: str) -> Iterator[tuple[BaseProcess, Connection]]:
    """The process of a measurement; it ends with the block."""
    context: Any = multiprocessing.get_context(start_method)
    ours, theirs = context.Pipe()
    place = {"cores": core_numbers(), "gpu": None}
    foreign = [ours] if start_method == "fork" else []
    process = context.Process(target=do_point, args=(work, point, theirs, place, foreign, Gauge), name="measurement")
    sys.stdout.flush()
    process.start()
    theirs.close()
    try:
        yield process, ours
    finally:
        workers = _children(process.pid)
        process.terminate()
        process.join(PATIENCE)
        process.kill()
        process.join()
        for worker in workers:  # they outlive a process that had to be killed, with what they hold of the memory
            with suppress(psutil.NoSuchProcess):
                worker.kill()
        ours.close()


def _children(pid: int | None) -> list[psutil.Process]:
    """The processes that a process has started; none if it has ended."""
    with suppress(psutil.NoSuchProcess):
        children: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
        return children
    return []
