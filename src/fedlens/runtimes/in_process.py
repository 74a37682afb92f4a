"""Clients one after another in this process: the simplest runtime, and the one for tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from fedlens.core.types import ClientInfo, Task, VirtualTime
from fedlens.runtimes.base import Outcome
from fedlens.runtimes.meter import Meter, Seldom, Watch, nobody, standing
from fedlens.runtimes.worker import MakeTrainer, work


class InProcessRuntime:
    """Runs each task when its outcome is asked for."""

    may_be_late = False
    virtual_time: VirtualTime | None = None

    def __init__(self, clients: Sequence[ClientInfo], make_trainer: MakeTrainer) -> None:
        self._clients = clients
        self._trainer = make_trainer()
        self._tasks: list[Task] = []
        self.watch: Watch = nobody

    @property
    def at_once(self) -> int:
        return 1

    def clients(self, at_least: int = 0) -> Sequence[ClientInfo]:
        return self._clients

    def known(self) -> Sequence[ClientInfo]:
        return self._clients

    def submit(self, tasks: Iterable[Task], enough: int | None = None) -> None:
        self._tasks.extend(tasks)

    def completed(self, timeout: float | None = None) -> Iterator[Outcome]:
        tasks, self._tasks = self._tasks, []
        meter = Meter(changed=Seldom(lambda: self.watch(standing(tasks, [meter.cells]))))
        yield from work(self._trainer, tasks, meter)

    def close(self) -> None:
        self._tasks.clear()
