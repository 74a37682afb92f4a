"""A site's desk: what it makes of messages, of its site's failures, and of what is no message."""

from __future__ import annotations

from dataclasses import replace

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from tests.flower.fakes import TinySite
from tests.helpers import CPU, tiny_data, tiny_model, tiny_trainer

from fedlens.core.types import ClientFailure, Task, TaskSettings
from fedlens.flower.codec import arrays, task_record
from fedlens.flower.internals.parts import Incoming, message_of, taken_apart
from fedlens.flower.message_handler import Goodbye, MessageHandler
from fedlens.flower.messages import (
    HEAD,
    PROTOCOL,
    Description,
    Prepared,
    Refusal,
    Setup,
    head,
    inquiry,
    query,
    read_head,
    read_reply,
)
from fedlens.strategies.fedavg import FedAvg
from fedlens.training.flat import FlatModel
from fedlens.training.settings import LocalSettings

DATA = tiny_data(clients=1)
SETUP = Setup("run-1", {}, DATA.class_names, 8, 1)
TASK = Task("client0", 1, "train", FlatModel(tiny_model(), CPU).state(), TaskSettings(lr=0.1))


class Counting(TinySite):
    """Counts the tasks that it did."""

    done = 0

    def run(self, task, setup):
        type(self).done += 1
        return super().run(task, setup)


@pytest.fixture
def site(tmp_path):
    Counting.done = 0
    trainer = tiny_trainer(FedAvg(), DATA, tmp_path, LocalSettings(batch_size=4))
    return Counting(trainer, DATA, "client0", 0, "an identity")


def taken(content: RecordDict) -> tuple[Incoming, dict[str, bytes]]:
    sent = taken_apart(Message(content, 7, "query", group_id="run-1"), 0.0)
    return Incoming(sent.envelope, sent.tree), sent.parts


def asked(handler: MessageHandler, content: RecordDict):
    """What the desk replies, as the server reads it."""
    done = handler.do(*taken(content))
    if isinstance(done, Goodbye):
        return done
    return message_of(Incoming(done.reply.envelope, done.reply.tree), done.reply.parts).content


def training(**changes) -> RecordDict:
    return task_record(replace(TASK, **changes), SETUP, arrays(TASK.payload))


def test_questions_are_answered(site) -> None:
    assert isinstance(read_reply(asked(MessageHandler(site), inquiry("", [1]))), Description)
    assert isinstance(read_reply(asked(MessageHandler(site), query("prepare", SETUP))), Prepared)
    assert read_head(asked(MessageHandler(site), training()))["is"] == "ClientResult"


def test_goodbyes_need_no_reply(site) -> None:
    for kind in ("refuse", "finish"):
        assert asked(MessageHandler(site), RecordDict({HEAD: head(kind, None, text="because")})) == Goodbye(
            kind, "because"
        )


def test_the_same_task_is_not_done_again(site) -> None:
    """The server asks again when it lost the answer, or begins a round again."""
    handler = MessageHandler(site)
    first, again = asked(handler, training()), asked(handler, training())
    assert first == again
    assert Counting.done == 1
    for other in (training(round=2), training(round=2, kind="evaluate")):
        asked(handler, other)
    assert Counting.done == 3


def test_a_failure_of_the_site_is_a_refusal(site, monkeypatch) -> None:
    monkeypatch.setattr(Counting, "run", lambda *_: ClientFailure("client0", 1, "training diverged"))
    assert read_reply(asked(MessageHandler(site), training())) == Refusal("training diverged", final=False)
    monkeypatch.setattr(Counting, "run", lambda *_: Refusal("not with us"))
    assert read_reply(asked(MessageHandler(site), training())) == Refusal("not with us")


def without(field: str) -> RecordDict:
    content = query("prepare", SETUP)
    del content[HEAD][field]
    return content


def with_setup(text: str) -> RecordDict:
    content = query("prepare", SETUP)
    content[HEAD]["setup"] = text
    return content


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (RecordDict(), "a message that is not FedLens'"),
        (
            RecordDict({HEAD: ConfigRecord({"protocol": PROTOCOL + 1, "kind": "train"})}),
            f"speaks version {PROTOCOL + 1}",
        ),
        (without("kind"), "a message of the kind"),
        (RecordDict({HEAD: ConfigRecord({"protocol": PROTOCOL, "kind": "dance"})}), "a message of the kind 'dance'"),
        (without("setup"), "the server's description of the run cannot be read"),
        (with_setup("{}"), "the server's description of the run cannot be read: run: Field required"),
        (query("train", SETUP), "a task that cannot be read"),
    ],
)
def test_what_cannot_be_read_is_refused(site, content, line: str) -> None:
    refusal = read_reply(asked(MessageHandler(site), content))
    assert isinstance(refusal, Refusal)
    assert line in refusal.reason


def test_broken_bytes_are_refused_and_the_desk_goes_on(site) -> None:
    handler = MessageHandler(site)
    incoming, parts = taken(query("prepare", SETUP))
    done = handler.do(incoming, dict.fromkeys(parts, b"rubbish"))
    refusal = read_reply(message_of(Incoming(done.reply.envelope, done.reply.tree), done.reply.parts).content)
    assert refusal.reason.startswith("a broken message")
    assert isinstance(read_reply(asked(handler, inquiry("", []))), Description)
