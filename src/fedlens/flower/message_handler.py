"""Handles a message: reads it, lets the site do the task, and writes the reply."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Protocol

from flwr.app import Message, RecordDict

from fedlens.core import clean
from fedlens.core.types import ClientFailure, ClientResult, Task
from fedlens.errors import ProtocolError
from fedlens.flower.internals.parts import Incoming, Outgoing, envelope_of, message_of, taken_apart
from fedlens.flower.messages import CONTROL, Description, Prepared, Refusal, Setup, read_head, reply


class SiteWork(Protocol):
    """The site as the worker process uses it; `fedlens.flower.site.TrainingSite` is one."""

    def describe(self) -> Description: ...

    def prepare(self, setup: Setup) -> Prepared | Refusal: ...

    def run(self, task: Task, setup: Setup) -> ClientResult | ClientFailure | Refusal: ...


@dataclass(frozen=True)
class Done:
    """A reply as it is sent, and its description for the outbox and the screen."""

    reply: Outgoing
    run: str
    what: str
    text: str

    def carrying(self, parts: dict[str, bytes]) -> Done:
        """The same, with its parts in another form."""
        return replace(self, reply=replace(self.reply, parts=parts))


@dataclass(frozen=True)
class Reply:
    """A site's reply to a message: its content; then run, kind and a line for the screen."""

    content: RecordDict
    run: str
    what: str
    text: str


@dataclass(frozen=True)
class Goodbye:
    """The server ends this client's part: the run is over ("finish"), or it refuses the client ("refuse")."""

    kind: str
    text: str


def refusal_reply(incoming: Incoming, refusal: Refusal) -> Outgoing:
    """A refusal of a message whose content was not read."""
    return taken_apart(Message(reply(refusal), reply_to=envelope_of(incoming)), 0.0)


class MessageHandler:
    """Reads a message, lets the site do it, writes the reply; in the worker process."""

    def __init__(self, site: SiteWork) -> None:
        self._site = site
        self._last: tuple[tuple[str, str], Reply] | None = None

    def do(self, incoming: Incoming, parts: dict[str, bytes]) -> Done | Goodbye:
        """The reply to one message, in the parts that are sent.

        Raises:
            FedLensError: the site cannot work at all.
        """
        started = time.perf_counter()
        try:
            message = message_of(incoming, parts)
        except ProtocolError as error:
            return Done(refusal_reply(incoming, Refusal(str(error))), "", "refusal", f"refused: {error}")
        answer = self.answer(message, incoming.content_id)
        if isinstance(answer, Goodbye):
            return answer
        outgoing = taken_apart(Message(answer.content, reply_to=message), time.perf_counter() - started)
        return Done(outgoing, answer.run, answer.what, answer.text)

    def answer(self, message: Message, content_id: str = "") -> Reply | Goodbye:
        """The site's reply to one message. `content_id`: hash of the message's content, where it is known. A message
        with the same content as the last one gets the same reply: the server lost it and asks again.

        Raises:
            FedLensError: the site cannot work at all.
        """
        try:
            return self._read(message, content_id)
        except ProtocolError as error:
            return Reply(reply(Refusal(str(error))), "", "refusal", f"refused: {error}")

    def _read(self, message: Message, content_id: str) -> Reply | Goodbye:
        record = read_head(message.content)
        kind, run = str(record.get("kind")), clean.line(message.metadata.group_id)
        if kind not in CONTROL and not is_task(kind):
            raise ProtocolError(f"a message of the kind {clean.line(kind, 20)!r}")
        if kind in ("refuse", "finish"):
            return Goodbye(kind, clean.line(str(record.get("text", ""))))
        if kind == "describe":
            return Reply(reply(self._site.describe()), run, kind, "")
        setup = Setup.from_json(str(record.get("setup", "")))
        if kind == "prepare":
            ready = self._site.prepare(setup)
            text = f"stays out: {ready.reason}" if isinstance(ready, Refusal) else f"ready for {setup.run}"
            return Reply(reply(ready), run, kind, text)
        return self._task(message, setup, (run, content_id))

    def _task(self, message: Message, setup: Setup, key: tuple[str, str]) -> Reply:
        from fedlens.flower.codec import result_record, task_from  # with PyTorch
        from fedlens.training.tasks.base import kind_of

        if key[1] and self._last is not None and self._last[0] == key:
            return replace(self._last[1], text=f"{self._last[1].text} (sent again)")
        task, run = task_from(message.content), key[0]
        outcome = self._site.run(task, setup)
        if isinstance(outcome, ClientFailure):
            outcome = Refusal(outcome.reason, final=False)
        if isinstance(outcome, Refusal):
            return Reply(reply(outcome), run, "refusal", f"round {task.round}: {outcome.reason}")
        answer = Reply(result_record(outcome), run, f"{task.kind} {task.round}", kind_of(task.kind).record(outcome))
        self._last = (key, answer)
        return answer


def is_task(kind: str) -> bool:
    """Whether there are tasks of that kind."""
    from fedlens.training.tasks.base import task_kinds  # with PyTorch

    return kind in task_kinds.names()
