"""Clients in worker processes on this machine, each with one resident model and its own running sum."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from fedlens.core.machine import memory_kills, use_gpu
from fedlens.core.types import ClientInfo, Task, VirtualTime
from fedlens.errors import FedLensError, OutOfMemory, RuntimeFailure
from fedlens.runtimes import wire
from fedlens.runtimes.base import Outcome
from fedlens.runtimes.meter import CELLS, LOOK_SECONDS, Meter, Watch, nobody, standing
from fedlens.runtimes.worker import MakeTrainer, work
from fedlens.training.device import LESS_MEMORY, enough_memory
from fedlens.training.process import prepare_process

SIGNAL_SECONDS = 0.5
"""A service manager sends SIGTERM to every process of a service. This process waits so long for its own signal after a
worker was ended by one."""


class LocalRuntime:
    """Divides a round's tasks among worker processes by a fixed rule, so that a repeated run adds in the same order."""

    may_be_late = False
    virtual_time: VirtualTime | None = None

    def __init__(
        self,
        clients: Sequence[ClientInfo],
        make_trainer: MakeTrainer,
        *,
        workers: int,
        threads_per_worker: int,
        start_method: str,
        gpus: int = 0,
    ) -> None:
        """`gpus`: how many the workers divide among themselves, in turn; 0: they take what the trainer has."""
        self._clients = clients
        self._examples = {client.name: client.examples for client in clients}
        self._tasks: list[Task] = []
        self._busy: list[int] = []
        self._cells = [multiprocessing.RawArray("q", CELLS) for _ in range(workers)]
        self.watch: Watch = nobody
        self._kills = memory_kills()
        self._workers: list[tuple[BaseProcess, Connection]] = []
        for index, cells in enumerate(self._cells):
            ours = [connection for _, connection in self._workers] if start_method == "fork" else []
            gpu = index % gpus if gpus else None
            self._workers.append(_start(index, start_method, make_trainer, threads_per_worker, cells, ours, gpu))

    @property
    def at_once(self) -> int:
        return len(self._workers)

    def clients(self, at_least: int = 0) -> Sequence[ClientInfo]:
        return self._clients

    def known(self) -> Sequence[ClientInfo]:
        return self._clients

    def submit(self, tasks: Iterable[Task], enough: int | None = None) -> None:
        self._tasks = list(tasks)
        shares = share_out(self._tasks, self._examples, len(self._workers))
        for cells in self._cells:
            cells[:] = [0] * CELLS
        self._busy = [index for index, share in enumerate(shares) if share]
        for index in self._busy:
            self._talk(index, partial(wire.send, message=shares[index]))

    def completed(self, timeout: float | None = None) -> Iterator[Outcome]:
        """The workers take turns: an order that repeats, in which none waits long until its outcome is taken."""
        while self._busy:
            for index in list(self._busy):
                if (message := self._receive(index, timeout)) is None:
                    self._busy.remove(index)
                else:
                    yield message

    def close(self) -> None:
        for process, connection in self._workers:
            connection.close()
            process.terminate()
        for process, _ in self._workers:
            process.join()
        self._workers = []

    def _receive(self, index: int, timeout: float | None) -> Outcome | None:
        """The worker's next outcome; None when its share is done."""
        process, connection = self._workers[index]
        ends = time.monotonic() + (float("inf") if timeout is None else timeout)
        while not wait([connection, process.sentinel], min(LOOK_SECONDS, max(ends - time.monotonic(), 0))):
            if time.monotonic() >= ends:
                raise RuntimeFailure(f"{process.name} gave no answer within {timeout:g} s")
            self.watch(standing(self._tasks, self._cells))
        message = self._talk(index, wire.receive)
        if isinstance(message, FedLensError):
            raise message
        if isinstance(message, str):
            raise RuntimeFailure(f"{process.name} failed:\n{message}")
        outcome: Outcome | None = message
        return outcome

    def _talk(self, index: int, action: Callable[[Connection], Any]) -> Any:
        process, connection = self._workers[index]
        try:
            return action(connection)
        except (EOFError, OSError) as error:
            process.join(5)
            if process.exitcode == -signal.SIGTERM:
                time.sleep(SIGNAL_SECONDS)
            raise self._loss(process) from error

    def _loss(self, process: BaseProcess) -> RuntimeFailure:
        """Why a worker has ended: lack of memory is told from other kills where the kernel counts its own."""
        fact = f"{process.name} (process {process.pid}) ended unexpectedly with exit code {process.exitcode}"
        on = "`fedlens resume` goes on"
        kills = memory_kills()
        if process.exitcode != -signal.SIGKILL:
            return RuntimeFailure(f"{fact}; {on}")
        if kills is None:
            return OutOfMemory(f"{fact}, usually by the system's memory guard", f"{on}; {LESS_MEMORY}")
        if kills == self._kills:
            return RuntimeFailure(f"{fact}, by another program, not by the kernel for lack of memory; {on}")
        return OutOfMemory(f"{fact}, by the kernel, because memory is full", f"{on}; {LESS_MEMORY}")


def share_out(tasks: Sequence[Task], examples: Mapping[str, int], workers: int) -> list[list[Task]]:
    """Each task in turn, that of the client with most images first, goes to the least loaded worker; ties by order."""
    shares: list[list[Task]] = [[] for _ in range(workers)]
    loads = [0] * workers
    for task in sorted(tasks, key=lambda task: -examples[task.client]):
        lightest = loads.index(min(loads))
        shares[lightest].append(task)
        loads[lightest] += max(examples[task.client], 1)
    return shares


def may_inherit() -> bool:
    """Whether a fork of this process can train on the CPU. After PyTorch has used a GPU, or has run a backward pass on
    a machine with one, it holds threads that a fork lacks, and refuses to train."""
    return sys.platform == "linux" and not torch.cuda.is_initialized() and not _has_thread(b"pt_autograd")


def _has_thread(name: bytes) -> bool:
    for thread in Path("/proc/self/task").glob("*/comm"):
        with suppress(OSError):  # it has ended meanwhile
            if thread.read_bytes().startswith(name):
                return True
    return False


def _start(
    index: int,
    start_method: str,
    make_trainer: MakeTrainer,
    threads: int,
    cells: Any,
    inherited: Sequence[Connection],
    gpu: int | None,
) -> tuple[BaseProcess, Connection]:
    context: Any = multiprocessing.get_context(start_method)
    ours, theirs = context.Pipe()
    foreign = [*inherited, ours] if start_method == "fork" else []
    process = context.Process(
        target=_serve, args=(theirs, foreign, make_trainer, threads, cells, gpu), name=f"worker-{index}", daemon=True
    )
    process.start()
    theirs.close()
    return process, ours


def _serve(
    connection: Connection,
    foreign: Sequence[Connection],
    make_trainer: MakeTrainer,
    threads: int,
    cells: Any,
    gpu: int | None,
) -> None:
    """The worker process: it receives shares and sends outcomes; None ends a share. It exits when its parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the coordinator handles Ctrl-C: it saves, then ends the workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as Ctrl-C
    for other in foreign:  # a copy of the coordinator's end, left open here, would hide that it has ended
        other.close()
    if gpu is not None:
        use_gpu(gpu)
    torch.set_num_threads(threads)
    prepare_process()
    parent = multiprocessing.parent_process()
    watched: list[Any] = [connection, *([parent.sentinel] if parent else [])]
    trainer, meter = None, Meter(cells)
    with suppress(EOFError, ConnectionError):  # the coordinator has gone, in the middle of a message
        while connection in wait(watched):
            tasks = wire.receive(connection)
            try:
                with enough_memory():
                    trainer = trainer or make_trainer()
                    for outcome in work(trainer, tasks, meter):
                        wire.send(connection, outcome)
                wire.send(connection, None)
            except ConnectionError:
                raise
            except FedLensError as error:
                wire.send(connection, error)
            except Exception:
                wire.send(connection, traceback.format_exc())
