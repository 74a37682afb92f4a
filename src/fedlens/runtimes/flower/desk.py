"""From a message to its reply: read, done by the site, written."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Protocol

from flwr.app import Message, RecordDict

from fedlens import clean
from fedlens.errors import ProtocolError
from fedlens.federation.types import Answer, ClientFailure, Task
from fedlens.runtimes.flower.internals.parts import Incoming, Outgoing, envelope_of, message_of, taken_apart
from fedlens.runtimes.flower.messages import FLOWER_TYPES, Description, Prepared, Refusal, Setup, read_head, reply


class Site(Protocol):
    """What the worker process asks for answers; `fedlens.site.Site` is one."""

    def describe(self) -> Description: ...

    def prepare(self, setup: Setup) -> Prepared | Refusal: ...

    def run(self, task: Task, setup: Setup) -> Answer | ClientFailure | Refusal: ...


@dataclass(frozen=True)
class Done:
    """A reply, and what it is, for the outbox and the screen."""

    reply: Outgoing
    run: str
    what: str
    text: str

    def carrying(self, parts: dict[str, bytes]) -> Done:
        """The same, with its parts in another form."""
        return replace(self, reply=replace(self.reply, parts=parts))


@dataclass(frozen=True)
class Said:
    """What a site answers to a message: the reply's content; then run, kind and a line for people."""

    content: RecordDict
    run: str
    what: str
    text: str


@dataclass(frozen=True)
class Farewell:
    """The server needs this client no more ("finish"), or does not want it ("refuse")."""

    kind: str
    text: str


def refusal_reply(incoming: Incoming, refusal: Refusal) -> Outgoing:
    """A refusal of a message whose content was not looked at."""
    return taken_apart(Message(reply(refusal), reply_to=envelope_of(incoming)), 0.0)


class Desk:
    """Reads a message, lets the site do it, writes the reply; in the worker process."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._last: tuple[tuple[str, str], Said] | None = None

    def do(self, incoming: Incoming, parts: dict[str, bytes]) -> Done | Farewell:
        """The reply to one message, as what leaves the site.

        Raises:
            FedLensError: the site cannot work at all.
        """
        started = time.perf_counter()
        try:
            message = message_of(incoming, parts)
        except ProtocolError as error:
            return Done(refusal_reply(incoming, Refusal(str(error))), "", "refusal", f"refused: {error}")
        answer = self.answer(message, incoming.content_id)
        if isinstance(answer, Farewell):
            return answer
        outgoing = taken_apart(Message(answer.content, reply_to=message), time.perf_counter() - started)
        return Done(outgoing, answer.run, answer.what, answer.text)

    def answer(self, message: Message, content_id: str = "") -> Said | Farewell:
        """What the site says to one message. `content_id`: where it is known, a message with the same content as the
        last one gets the same answer: the server lost it, and asks again.

        Raises:
            FedLensError: the site cannot work at all.
        """
        try:
            return self._read(message, content_id)
        except ProtocolError as error:
            return Said(reply(Refusal(str(error))), "", "refusal", f"refused: {error}")

    def _read(self, message: Message, content_id: str) -> Said | Farewell:
        record = read_head(message.content)
        kind, run = str(record.get("kind")), clean.line(message.metadata.group_id)
        if kind not in FLOWER_TYPES:
            raise ProtocolError(f"a message of the kind {clean.line(kind, 20)!r}")
        if kind in ("refuse", "finish"):
            return Farewell(kind, clean.line(str(record.get("text", ""))))
        if kind == "describe":
            return Said(reply(self._site.describe()), run, kind, "")
        setup = Setup.from_json(str(record.get("setup", "")))
        if kind == "prepare":
            ready = self._site.prepare(setup)
            text = f"stays out: {ready.reason}" if isinstance(ready, Refusal) else f"ready for {setup.run}"
            return Said(reply(ready), run, kind, text)
        return self._task(message, setup, (run, content_id))

    def _task(self, message: Message, setup: Setup, key: tuple[str, str]) -> Said:
        from fedlens.runtimes.flower.codec import answer_record, task_from  # with PyTorch

        if key[1] and self._last is not None and self._last[0] == key:
            return replace(self._last[1], text=f"{self._last[1].text} (sent again)")
        task, run = task_from(message.content), key[0]
        outcome = self._site.run(task, setup)
        if isinstance(outcome, ClientFailure):
            outcome = Refusal(outcome.reason, final=False)
        if isinstance(outcome, Refusal):
            return Said(reply(outcome), run, "refusal", f"round {task.round}: {outcome.reason}")
        answer = Said(answer_record(outcome), run, f"{task.kind} {task.round}", said(outcome))
        self._last = (key, answer)
        return answer


def said(answer: Answer) -> str:
    """An answer for people: numbers of this site alone."""
    metrics, images = answer.report.metrics, int(answer.report.weight)
    if answer.kind == "train":
        seconds = metrics["seconds"].total
        return f"round {answer.round}: trained on {images} images, loss {metrics['loss'].value:.4f}, {seconds:.1f} s"
    if answer.kind == "count":
        return f"tested on {images} images"
    return f"round {answer.round}: accuracy {100 * metrics['accuracy'].value:.1f} % on {images} images"
