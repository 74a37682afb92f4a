"""The runtime for clients on other machines: tasks are sent as Flower messages, results are taken as they arrive.

One loop (`_look`) looks for new and lost connections, ready sites and replies. It runs while the coordinator waits, so
there is no thread and no lock. Flower's `Grid` is the only connection.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

from flwr.app import Message, RecordDict

from fedlens.core import clean
from fedlens.core.types import BatchProgress, ClientFailure, ClientInfo, ClientResult, PendingTask, Task, VirtualTime
from fedlens.errors import ConnectionFailed, ProtocolError
from fedlens.flower.client_manager import Bounds, ClientManager
from fedlens.flower.codec import arrays, result_from, task_record
from fedlens.flower.internals.grid import NODE_GONE, nodes_online, replies
from fedlens.flower.message_sender import Link, MessageSender
from fedlens.flower.messages import LONGEST_REASON, Description, Refusal, Setup, read_reply
from fedlens.runtimes.base import Outcome, TaskOutcome
from fedlens.runtimes.meter import Watch, nobody
from fedlens.training.screening import Expected
from fedlens.training.tasks.base import kind_of

POLL_SECONDS = 0.05
SLOWEST_POLL_SECONDS = 1.0
NODES_SECONDS = 0.5
"""How often to ask who is connected."""

ENVELOPE_BYTES = 4_000_000
"""Bytes allowed in a reply beside its tensors: Flower's own records, metrics, confusion counts."""

LEAVE_SECONDS = 5


def pause(waited: float) -> float:
    """Seconds until the next look: short at first, then a fortieth of the time waited, so that polling costs little."""
    return min(max(POLL_SECONDS, waited / 40), SLOWEST_POLL_SECONDS)


@dataclass
class _Owed:
    """A task without an outcome. `message` is None while its site is disconnected; `since` is when it was last
    connected; after `ends` it has failed."""

    task: Task
    message: str | None = None
    since: float = field(default_factory=time.monotonic)
    ends: float = float("inf")


@dataclass
class _Batch:
    """The tasks of one `submit` that have no outcome, and the number of results that end it."""

    owed: dict[str, _Owed] = field(default_factory=dict)
    enough: int = 0
    answered: int = 0
    began: float = field(default_factory=time.monotonic)
    alone: float | None = None
    """Since when only disconnected sites are waited for."""


Expect = Callable[[Task, ClientInfo | None], Expected]
"""A task, and the site's description → the expected form of its result."""


class FlowerRuntime:
    """Sites that connect and disconnect.

    Tasks are sent in batches (`submit`, `completed`), or one by one (`start`, `next_result`), each with a model of its
    own; batches of evaluations may come in between.

    run       name of the run
    deadline  seconds that a task may take; after that it has failed
    rejoin    seconds to wait for a lost site; in a batch they count from when all others have answered
    bounds    of what sites report
    note      called with a line for the console
    """

    may_be_late = True
    virtual_time: VirtualTime | None = None

    def __init__(
        self,
        link: Link,
        run: str,
        *,
        deadline: float | None,
        rejoin: float,
        bounds: Bounds,
        note: Callable[[str], None],
    ) -> None:
        self._link = link
        self._sender = MessageSender(link, run)
        self._client_manager = ClientManager(self._sender, bounds, left=self._orphan, note=note)
        self._deadline = deadline
        self._rejoin = rejoin
        self._note = note
        self._stale: set[str] = set()
        self._batch = _Batch()
        self._flow: dict[str, _Owed] = {}
        self._arrived: dict[str, TaskOutcome] = {}
        self._expect: Expect = lambda _task, _client: Expected(0, ())
        self._looked = 0.0
        link.allow(ENVELOPE_BYTES)
        self.watch: Watch = nobody

    # -- what the coordinator sees -------------------------------------------------------------------------------

    def clients(self, at_least: int = 0) -> Sequence[ClientInfo]:
        """The sites that are ready now, by partition; waits until there are `at_least`."""
        self._wait(at_least, lambda: len(self._client_manager.ready()), "ready")
        return self._client_manager.ready()

    def known(self) -> Sequence[ClientInfo]:
        return sorted(self._client_manager.known.values(), key=lambda info: info.partition)

    @property
    def at_once(self) -> int:
        return max(len(self._client_manager.ready()), 1)

    def submit(self, tasks: Iterable[Task], enough: int | None = None) -> None:
        """Send a batch of tasks. `enough`: so many results end it."""
        self._forget()
        owed = {task.client: self._owing(task) for task in tasks}
        self._batch = _Batch(owed, enough or len(owed))
        self._send_out()

    def completed(self, timeout: float | None = None) -> Iterator[Outcome]:
        """Results and failures as they arrive; ends when all, or enough, have answered, or at the deadline."""
        batch = self._batch
        while batch.owed and batch.answered < batch.enough:
            idle = True
            for outcome in self._look():
                idle = False
                yield outcome
                del outcome  # before the next update is fetched
                if batch.answered >= batch.enough:
                    break
            yield from self._given_up(batch)
            self._tell(batch.owed, batch.answered)
            if idle and batch.owed:
                time.sleep(pause(time.monotonic() - batch.began))
        self._forget()

    def idle(self) -> Sequence[ClientInfo]:
        return [client for client in self.clients() if client.name not in self._flow.keys() | self._arrived.keys()]

    def start(self, tasks: Sequence[Task]) -> None:
        self._flow |= {task.client: self._owing(task) for task in tasks}
        self._send_out()

    def pending_tasks(self) -> tuple[PendingTask, ...]:
        """Includes tasks whose result has arrived but was not used: a resumed server gives them out again."""
        arrived = [task for task, _ in self._arrived.values()]
        return tuple(map(PendingTask, [*arrived, *(owed.task for owed in self._flow.values())]))

    def restore(self, pending_tasks: Sequence[PendingTask]) -> None:
        self.start([flight.task for flight in pending_tasks])

    @property
    def in_flight(self) -> int:
        return len(self._flow) + len(self._arrived)

    @property
    def more_now(self) -> bool:
        return bool(self._arrived)

    def next_result(self, *, short: bool) -> TaskOutcome | None:
        began = time.monotonic()
        while not self._arrived:
            for _ in self._look():  # no batch is out
                pass
            self._give_up()
            if not self._arrived:
                self._tell(self._flow, 0)
                if short and self.idle():
                    return None
                time.sleep(pause(time.monotonic() - began))
        return self._arrived.pop(next(iter(self._arrived)))

    def close(self) -> None:
        """Drop the pending tasks. Sites are not told: the run may be resumed, and they wait for it."""
        self._flow.clear()
        self._forget()

    # -- what the server does before and after the rounds ----------------------------------------------------------

    def described(self, at_least: int) -> list[Description]:
        """How the connected sites introduce themselves; waits until `at_least` have."""
        self._wait(at_least, lambda: len(self._client_manager.here()), "here")
        return self._client_manager.here()

    def open(self, setup: Setup, expect: Expect) -> None:
        """Send `setup` to every site from now on; a site takes part once it is ready."""
        self._expect = expect
        self._client_manager.open(setup)

    def finish(self, summary: str) -> None:
        """Tell every site that the run is over, and wait a few seconds until they have left."""
        with suppress(ConnectionFailed):
            for node in self._client_manager.nodes:
                self._sender.say(node, "finish", summary)
            until = time.monotonic() + LEAVE_SECONDS
            while self._sender.grid(nodes_online) and time.monotonic() < until:
                time.sleep(POLL_SECONDS)

    # -- the loop --------------------------------------------------------------------------------------------------

    def _look(self) -> Iterator[Outcome]:
        """Check connections and replies once; gives the outcomes, one at a time."""
        try:
            if self._link.lost():
                raise ConnectionFailed("it has ended")
            self._who_is_there()
            for message in self._replies():
                yield from self._taken(message)
            self._send_owed()
        except ConnectionFailed as error:
            self._note(f"lost Flower's SuperLink ({error}): starting it again; the clients come back by themselves")
            self._begin_again()

    def _wait(self, at_least: int, count: Callable[[], int], what: str) -> None:
        said, began = -1, time.monotonic()
        while True:
            for _ in self._look():  # no task is pending now
                pass
            here = count()
            if here >= at_least:
                return
            if here != said:
                self._note(f"waiting for clients: {here} of {at_least} {what}")
                said, began = here, time.monotonic()
            time.sleep(pause(time.monotonic() - began))

    def _who_is_there(self) -> None:
        if time.monotonic() - self._looked < NODES_SECONDS:
            return
        self._looked = time.monotonic()
        self._link.tend()
        self._client_manager.meet(self._sender.grid(nodes_online))

    def _replies(self) -> Iterator[Message]:
        """Replies one at a time, so that one update at most is in memory beside the sum."""
        waiting = [owed.message for owed in self._owed() if owed.message]
        late = list(self._stale) if self._looked >= time.monotonic() - POLL_SECONDS else []
        for name in (*self._client_manager.questions, *waiting, *late):
            yield from self._sender.grid(partial(replies, name=name))

    def _taken(self, message: Message) -> list[Outcome]:
        """The outcomes that a reply brings."""
        answers = message.metadata.reply_to_message_id
        self._stale.discard(answers)
        if self._client_manager.replied(message):
            return []
        for client, owed in list(self._flow.items()):
            if owed.message == answers and (outcome := self._outcome(owed, message)):
                self._arrives(client, outcome)
        for client, owed in list(self._batch.owed.items()):
            if owed.message == answers and (outcome := self._outcome(owed, message)):
                del self._batch.owed[client]
                self._batch.answered += isinstance(outcome, ClientResult)
                return [outcome]
        return []

    def _outcome(self, owed: _Owed, message: Message) -> ClientResult | ClientFailure | None:
        """The outcome of a task; None where its site is lost and may come back before the end."""
        if message.has_error() and message.error.code in NODE_GONE:
            owed.message, owed.since = None, time.monotonic()
            return None
        task = owed.task
        try:
            if message.has_error():
                raise ProtocolError(clean.line(str(message.error.reason)))
            refusal = read_reply(message.content)
            if isinstance(refusal, Refusal):
                return ClientFailure(task.client, task.round, refusal.reason)
            return self._read(task, message.content)
        except ProtocolError as error:
            return ClientFailure(
                task.client, task.round, clean.line(f"its result was not used: {error}", LONGEST_REASON)
            )

    def _arrives(self, client: str, outcome: ClientResult | ClientFailure) -> None:
        self._arrived[client] = self._flow.pop(client).task, outcome

    def _read(self, task: Task, content: RecordDict) -> ClientResult:
        return result_from(content, task, self._expect(task, self._client_manager.known[task.client]))

    def _given_up(self, batch: _Batch) -> Iterator[ClientFailure]:
        """Failures of the batch's tasks that will not be answered any more."""
        if any(owed.message for owed in batch.owed.values()):
            batch.alone = None
        elif batch.alone is None:
            batch.alone = time.monotonic()
        for client, owed in list(batch.owed.items()):
            failure = self._failed(owed, waits=batch.alone)
            if failure:
                del batch.owed[client]
                yield failure

    def _give_up(self) -> None:
        """The same for tasks that are sent one by one."""
        for client, owed in list(self._flow.items()):
            failure = self._failed(owed, waits=owed.since)
            if failure:
                self._arrives(client, failure)

    def _failed(self, owed: _Owed, waits: float | None) -> ClientFailure | None:
        """The failure of a task that will not be answered any more. `waits`: since when only lost sites are missing."""
        now, away = time.monotonic(), owed.message is None
        given_up = away and waits is not None and now - max(waits, owed.since) > self._rejoin
        if now <= owed.ends and not given_up:
            return None
        if owed.message:
            self._stale.add(owed.message)
        reason = "the connection to it was lost" if away else f"no answer within {self._deadline:g} s"
        return ClientFailure(owed.task.client, owed.task.round, reason, answered=False)

    def _orphan(self, name: str) -> None:
        """Keep the lost site's tasks until it comes back."""
        for owed in self._owed():
            if owed.task.client == name:
                if owed.message:
                    self._stale.add(owed.message)
                owed.message, owed.since = None, time.monotonic()

    def _tell(self, owed: Mapping[str, _Owed], answered: int) -> None:
        """Report which sites are waited for, and which of them are disconnected."""
        if not owed:
            return
        waiting = tuple(name if one.message else f"{name} (away)" for name, one in owed.items())
        task = next(iter(owed.values())).task
        self.watch(BatchProgress(task.round, kind_of(task.kind).label, answered, answered + len(owed), waiting=waiting))

    # -- tasks without an outcome ------------------------------------------------------------------------------------

    def _owed(self) -> Iterator[_Owed]:
        """Every task without an outcome, of the batch and of those that are sent one by one."""
        return chain(self._batch.owed.values(), self._flow.values())

    def _owing(self, task: Task) -> _Owed:
        return _Owed(task, ends=time.monotonic() + self._deadline if self._deadline else float("inf"))

    def _send_out(self) -> None:
        """Send new tasks, and accept replies as large as the largest expected one."""
        kinds = {owed.task.kind: owed.task for owed in self._owed()}
        if not kinds:
            return
        self._link.allow(ENVELOPE_BYTES + max(self._expect(task, None).nbytes for task in kinds.values()))
        with suppress(ConnectionFailed):  # the next call of `_look` reconnects
            self._send_owed()

    def _send_owed(self) -> None:
        """Send tasks that are not with their site: at first all, later those of sites that came back."""
        ready = self._client_manager.ready_nodes()
        waiting = [owed for owed in self._owed() if owed.message is None and owed.task.client in ready]
        for payload in {id(owed.task.payload): owed.task.payload for owed in waiting}.values():
            self._send([owed for owed in waiting if owed.task.payload is payload], ready)

    def _send(self, waiting: Sequence[_Owed], ready: Mapping[str, int]) -> None:
        """Send the tasks of one payload in one call, so that the payload is encoded and sent to the SuperLink once."""
        setup = self._client_manager.setup
        if setup is None:
            return
        payload = arrays(waiting[0].task.payload)
        messages = [
            self._sender.message(ready[owed.task.client], owed.task.kind, task_record(owed.task, setup, payload))
            for owed in waiting
        ]
        for owed, name in zip(waiting, self._sender.send(messages), strict=True):
            owed.message = name

    def _forget(self) -> None:
        """Drop the batch; replies that still arrive are fetched and discarded."""
        self._stale |= {owed.message for owed in self._batch.owed.values() if owed.message}
        self._batch = _Batch()

    def _begin_again(self) -> None:
        """After the SuperLink was lost, start a new one; the sites reconnect by themselves."""
        self._link.renew()
        self._client_manager.clear()
        self._stale.clear()
        for owed in self._owed():
            owed.message, owed.since = None, time.monotonic()
