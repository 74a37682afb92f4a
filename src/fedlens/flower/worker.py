"""The worker process next to a client's connection; it holds the model, the images and the GPU."""

from __future__ import annotations

import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from fedlens.errors import FedLensError
from fedlens.flower.internals.parts import Incoming
from fedlens.flower.message_handler import Done, Goodbye, MessageHandler, SiteWork, refusal_reply
from fedlens.flower.messages import Refusal
from fedlens.flower.pulse import BEAT_SECONDS
from fedlens.runtimes import wire
from fedlens.training.device import LESS_MEMORY
from fedlens.training.process import prepare_process

SIGNAL_SECONDS = 0.5
"""A service manager sends SIGTERM to every process of a service. The client waits so long for its own signal after its
worker was ended by one."""

Tell = Callable[[str], None]
Progress = Callable[[str], Callable[[int, int], None]]
MakeSite = Callable[[Tell, Progress], SiteWork]
"""Called in the worker process with two functions: one shows a line, one shows progress on the client's screen."""


class Watcher(Protocol):
    """Shows lines and progress on the client's screen."""

    def note(self, text: str) -> None: ...

    def progress(self, label: str) -> Callable[[int, int], None]: ...


class Worker:
    """The process that holds the site. It is started when it is first needed, and again after it died.

    beat: called every `BEAT_SECONDS` while it is busy.
    """

    def __init__(self, make_site: MakeSite, watcher: Watcher, beat: Callable[[], None]) -> None:
        self._make_site = make_site
        self._watcher = watcher
        self._beat = beat
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None

    def do(self, incoming: Incoming, parts: dict[str, bytes]) -> Done | Goodbye:
        """Handle one message; if the worker dies while it does so, the reply is a refusal.

        Raises:
            FedLensError: the site cannot work at all.
        """
        connection = self._connection or self._start()
        shows: dict[str, Callable[[int, int], None]] = {}
        try:
            wire.send(connection, (incoming, wire.beside(parts)))
            while True:
                message = self._receive()
                if isinstance(message, str):
                    self._watcher.note(message)
                elif isinstance(message, tuple):
                    label, done, total = message
                    shows.setdefault(label, self._watcher.progress(label))(done, total)
                elif isinstance(message, FedLensError):
                    raise message
                elif isinstance(message, Done):
                    return message.carrying(wire.whole(message.reply.parts))
                else:
                    return message  # type: ignore[no-any-return]
        except (EOFError, OSError):
            return self._died(incoming)

    def close(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.join()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._make_site), name="trainer", daemon=True)
        self._process.start()
        theirs.close()
        self._connection = ours
        return ours

    def _receive(self) -> Any:
        assert self._connection is not None and self._process is not None
        while not wait([self._connection, self._process.sentinel], BEAT_SECONDS):
            self._beat()
        return wire.receive(self._connection)

    def _died(self, incoming: Incoming) -> Done:
        process = self._process
        code = None
        if process is not None:
            process.join(5)
            code = process.exitcode
        if code == -signal.SIGTERM:
            time.sleep(SIGNAL_SECONDS)
        self.close()
        reason = (
            f"the process that trains at this site ended with exit code {code}; -9 is usually the system's memory "
            f"guard: {LESS_MEMORY}"
        )
        self._watcher.note(f"{reason}; it starts again with the next task")
        return Done(refusal_reply(incoming, Refusal(reason, final=False)), "", "refusal", "")


def _serve(connection: Connection, make_site: MakeSite) -> None:
    """The worker process: it receives messages and sends replies. It exits when its parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the client handles Ctrl-C: it leaves the server first
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    prepare_process()
    parent = multiprocessing.parent_process()
    watched: list[Any] = [connection, *([parent.sentinel] if parent else [])]
    tell = lambda text: wire.send(connection, text)  # noqa: E731
    handler: MessageHandler | None = None
    with suppress(EOFError, ConnectionError):  # the client has gone
        while connection in wait(watched):
            incoming, parts = wire.receive(connection)
            try:
                handler = handler or MessageHandler(make_site(tell, _progress(connection)))
                answer = handler.do(incoming, wire.whole(parts))
                if isinstance(answer, Done):
                    answer = answer.carrying(wire.beside(answer.reply.parts))
                wire.send(connection, answer)
            except ConnectionError:
                raise
            except FedLensError as error:
                wire.send(connection, error)
            except Exception:
                reason = f"the site failed: {traceback.format_exc(limit=-3)}"
                done = Done(refusal_reply(incoming, Refusal(reason, final=False)), "", "refusal", reason)
                wire.send(connection, done)


def _progress(connection: Connection) -> Progress:
    return lambda label: lambda done, total: wire.send(connection, (label, done, total))
