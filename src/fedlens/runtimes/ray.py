"""Clients in actors of a Ray cluster, each with one resident model and its own running sum.

Actors take the place of the local runtime's worker processes and get their tasks by the same rule, so that the same
number of them adds in the same order.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedlens.core.types import BatchProgress, ClientInfo, ClientResult, PartialSum, Task, VirtualTime
from fedlens.errors import ConfigError, DataError, FedLensError, ModelError, RuntimeFailure
from fedlens.runtimes import wire
from fedlens.runtimes.base import Outcome
from fedlens.runtimes.local import share_out
from fedlens.runtimes.meter import LOOK_SECONDS, Watch, nobody
from fedlens.runtimes.ray_cluster import brief, connect, disconnect, import_ray, room
from fedlens.runtimes.ray_worker import RayWorker, frozen, unpacked
from fedlens.runtimes.worker import MakeTrainer
from fedlens.training.device import LESS_MEMORY
from fedlens.training.tasks.base import kind_of

log = logging.getLogger(__name__)

PLACE_SECONDS = 120
"""How long actors may wait for resources of the cluster."""


class RayRuntime:
    """Divides a round's tasks among actors; those of a lost actor go to the others."""

    may_be_late = False
    virtual_time: VirtualTime | None = None

    def __init__(
        self,
        clients: Sequence[ClientInfo],
        make_trainer: MakeTrainer,
        *,
        address: str | None,
        workers: int | None,
        threads_per_worker: int,
        gpu: bool,
        folder: Path,
        ledgers: bool = False,
    ) -> None:
        """Find the cluster, start the actors, and build their trainers.

        address  "auto" or host:port of a running cluster; None starts a Ray of this machine alone. A program that is
                 connected to Ray already stays where it is
        workers  how many actors; None: as many as the cluster has room for
        gpu      each actor gets a GPU of its own
        folder   the run's; only nodes that see it can keep what clients store
        ledgers  clients write what they spend of privacy into that folder

        Raises:
            ConfigError: Ray is not installed.
            ConnectionFailed: no cluster answers at `address`.
            RuntimeFailure: the cluster has no room, or an actor cannot build its trainer.
        """
        self._clients = clients
        self._examples = {client.name: client.examples for client in clients}
        self._folder = folder.absolute()
        self._ray = import_ray(address)
        self._joined = self._ray.is_initialized()
        if not self._joined:
            connect(self._ray, address, workers and workers * threads_per_worker)
        self._actors: list[_Actor] = []
        self._shares: list[_Share] = []
        self._payloads: dict[int, Any] = {}
        self.watch: Watch = nobody
        try:
            count = room(self._ray, workers, threads_per_worker, gpu, len(clients))
            self._start(count, threads_per_worker, gpu)
            self._build(make_trainer)
            if ledgers:
                self._check_folder()
        except BaseException:
            self.close()
            raise

    @property
    def at_once(self) -> int:
        return len(self._actors)

    def clients(self, at_least: int = 0) -> Sequence[ClientInfo]:
        return self._clients

    def known(self) -> Sequence[ClientInfo]:
        return self._clients

    def submit(self, tasks: Iterable[Task], enough: int | None = None) -> None:
        tasks = list(tasks)
        different = {id(task.payload): task.payload for task in tasks}  # one in a synchronous round: the shared model
        self._payloads = {key: self._ray.put(wire.pack(payload)) for key, payload in different.items()}
        self._shares = self._hand_out(tasks)

    def completed(self, timeout: float | None = None) -> Iterator[Outcome]:
        tasks = [task for share in self._shares for task in share.tasks]
        while self._shares:
            self._await(tasks, timeout)
            left: list[Task] = []
            for share in self._shares:
                try:
                    yield from self._outcomes(share, timeout)
                except _Lost as loss:
                    self._go_on_without(share.actor, loss)
                    left.extend(share.tasks)
            self._shares = self._hand_out(left)
        self._payloads = {}

    def _await(self, tasks: Sequence[Task], timeout: float | None) -> None:
        """Wait for all shares, and report how many clients are done."""
        ends = time.monotonic() + (float("inf") if timeout is None else timeout)
        waiting = [share.answer for share in self._shares]
        while waiting and time.monotonic() < ends:
            _, waiting = self._ray.wait(waiting, num_returns=len(waiting), timeout=LOOK_SECONDS)
            left = sum(len(share.tasks) for share in self._shares if share.answer in waiting)
            self.watch(BatchProgress(tasks[0].round, kind_of(tasks[0].kind).label, len(tasks) - left, len(tasks)))

    def close(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor.handle)
        self._actors = []
        if not self._joined:
            disconnect(self._ray)

    def _start(self, count: int, threads: int, gpu: bool) -> None:
        remote = self._ray.remote(RayWorker).options(
            num_cpus=threads, num_gpus=int(gpu), scheduling_strategy="SPREAD", max_restarts=0
        )
        self._actors = [_Actor(f"actor-{index}", remote.remote(threads)) for index in range(count)]
        places = [actor.handle.place.remote() for actor in self._actors]
        found, waiting = self._ray.wait(places, num_returns=count, timeout=PLACE_SECONDS)
        if waiting:
            raise RuntimeFailure(
                f"only {len(found)} of {count} actors (runtime.workers) got a place in the Ray cluster within "
                f"{PLACE_SECONDS} s: it is busy, or no node has {threads} CPUs (runtime.threads_per_worker). Wait for "
                "others to finish, or ask for less"
            )
        self._actors = [replace(actor, name=f"{actor.name} on {place}") for actor, place in self._answers(places)]

    def _build(self, make_trainer: MakeTrainer) -> None:
        """Build every actor's trainer, and find out which of them see the run's folder."""
        probe = self._folder / f".seen-{uuid.uuid4().hex}"
        probe.touch()
        try:
            make = self._ray.put(frozen(make_trainer, self._ray.cloudpickle))
            seen = [actor.handle.build.remote(make, Path.cwd(), probe) for actor in self._actors]
            self._actors = [replace(actor, sees_run_folder=sees) for actor, sees in self._answers(seen)]
        finally:
            probe.unlink()

    def _answers(self, answers: Sequence[Any]) -> Iterator[tuple[_Actor, Any]]:
        """The answers of the actors, without those of lost actors."""
        for actor, answer in list(zip(self._actors, answers, strict=True)):
            try:
                yield actor, self._get(actor, answer)
            except _Lost as loss:
                self._go_on_without(actor, loss)
            except (ConfigError, DataError, ModelError) as error:
                raise RuntimeFailure(f"{actor.name}: {error}") from error

    def _hand_out(self, tasks: Sequence[Task]) -> list[_Share]:
        shares = zip(self._actors, share_out(tasks, self._examples, len(self._actors)), strict=True)
        return [_Share(actor, share, self._call(actor, share)) for actor, share in shares if share]

    def _call(self, actor: _Actor, tasks: Sequence[Task]) -> Any:
        """Start `tasks` on `actor`; payloads are on the cluster already, and tasks refer to them by position."""
        keys = list(dict.fromkeys(id(task.payload) for task in tasks))
        bare = [(keys.index(id(task.payload)), replace(task, payload={})) for task in tasks]
        return actor.handle.work.remote(bare, *(self._payloads[key] for key in keys))

    def _outcomes(self, share: _Share, timeout: float | None) -> list[Outcome]:
        outcomes: list[Outcome] = unpacked(self._get(share.actor, share.answer, timeout))
        if any(_kept(outcome) for outcome in outcomes) or kind_of(share.tasks[0].kind).staged:
            self._check_folder()
        return outcomes

    def _check_folder(self) -> None:
        """Raises RuntimeFailure: an actor does not see the run's folder, where clients keep what they need again."""
        if apart := [actor.name for actor in self._actors if not actor.sees_run_folder]:
            raise RuntimeFailure(
                f"clients keep tensors or ledgers from task to task, and {', '.join(apart)} cannot see {self._folder}: "
                "set tracking.dir to a folder that all nodes share, under the same path"
            )

    def _go_on_without(self, actor: _Actor, loss: _Lost) -> None:
        self._actors.remove(actor)
        self._ray.kill(actor.handle)
        if not self._actors:
            raise RuntimeFailure(
                f"{loss}. It was the last; `fedlens resume` goes on. If memory ran out, {LESS_MEMORY}"
            ) from loss
        log.warning("%s. The others (%d) do its work", loss, len(self._actors))

    def _get(self, actor: _Actor, answer: Any, timeout: float | None = None) -> Any:
        """The value that `answer` refers to.

        Raises:
            FedLensError: the actor raised it.
            RuntimeFailure: the actor raised another exception; or `timeout` seconds passed.
            _Lost: the actor, its node or its answer is gone.
        """
        errors = self._ray.exceptions
        try:
            return self._ray.get(answer, timeout=timeout)
        except errors.GetTimeoutError as error:
            raise RuntimeFailure(f"{actor.name} gave no answer within {timeout:g} s") from error
        except errors.RayTaskError as error:
            if isinstance(error.cause, FedLensError):
                raise error.cause from error
            raise RuntimeFailure(f"{actor.name} failed:\n{error}") from error
        except errors.RayError as error:
            raise _Lost(f"{actor.name} was lost: {brief(str(error))}") from error


@dataclass(frozen=True)
class _Actor:
    """`sees_run_folder`: it sees the run's folder."""

    name: str
    handle: Any
    sees_run_folder: bool = False


@dataclass(frozen=True)
class _Share:
    """An actor's tasks, and the reference to its answer."""

    actor: _Actor
    tasks: Sequence[Task]
    answer: Any


class _Lost(RuntimeFailure):
    """An actor is lost."""


def _kept(outcome: Outcome) -> bool:
    """Whether a client of `outcome` stored tensors."""
    if isinstance(outcome, PartialSum):
        return any(report.stored for report in outcome.reports)
    return isinstance(outcome, ClientResult) and outcome.report.stored
