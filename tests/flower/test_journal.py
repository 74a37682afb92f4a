"""What a site writes down: accepted tasks survive a restart, and the outbox is only ever added to."""

from __future__ import annotations

import errno
import hashlib
import json
from datetime import datetime

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fedlens.errors import DataError
from fedlens.flower.internals.parts import Incoming, message_of, taken_apart
from fedlens.flower.journal import Journal, Outbox

NODE = 7


def task(number: int) -> tuple[Incoming, dict[str, bytes]]:
    """A task with its parts, as a site fetches them."""
    sent = taken_apart(Message(RecordDict({"task": ConfigRecord({"round": number})}), NODE, "train"), 0.0)
    return Incoming(sent.envelope, sent.tree), sent.parts


def kept(folder, node: int = NODE) -> list[tuple[Incoming, dict[str, bytes]]]:
    """What a client finds when it starts."""
    return list(Journal(folder).open(node))


def test_kept_tasks_come_back_after_a_restart(tmp_path) -> None:
    tasks = [task(number) for number in range(3)]
    for incoming, parts in tasks:
        Journal(tmp_path).keep(incoming, parts, NODE)
    found = kept(tmp_path)
    assert sorted(found, key=lambda one: one[0].message_id) == sorted(tasks, key=lambda one: one[0].message_id)
    assert {message_of(*one).content["task"]["round"] for one in found} == {0, 1, 2}
    assert len(kept(tmp_path)) == 3


def test_an_answered_task_is_gone(tmp_path) -> None:
    journal = Journal(tmp_path)
    first, second = task(1), task(2)
    journal.keep(*first, NODE)
    journal.keep(*second, NODE)
    journal.drop(first[0])
    journal.drop(first[0])
    assert kept(tmp_path) == [second]


def test_another_nodes_tasks_are_thrown_away(tmp_path) -> None:
    """A site without a key of its own is a new node after a restart, and the server gives its task to that one."""
    Journal(tmp_path).keep(*task(1), NODE)
    assert kept(tmp_path, NODE + 1) == []
    assert kept(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_keeping_twice_is_keeping_once(tmp_path) -> None:
    one = task(1)
    Journal(tmp_path).keep(*one, NODE)
    Journal(tmp_path).keep(*one, NODE)
    assert kept(tmp_path) == [one]


@pytest.mark.parametrize("left", [0, 4, 100, -1])
def test_a_truncated_file_is_dropped(tmp_path, left: int) -> None:
    first, second = task(1), task(2)
    Journal(tmp_path).keep(*first, NODE)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:left])
    Journal(tmp_path).keep(*second, NODE)
    assert kept(tmp_path) == [second]
    assert not file.exists()


def test_what_a_kill_left_half_written_is_no_task(tmp_path) -> None:
    Journal(tmp_path).keep(*task(1), NODE)
    (file,) = tmp_path.iterdir()
    file.rename(file.with_suffix(".tmp"))
    assert kept(tmp_path) == []


def test_empty_parts_survive(tmp_path) -> None:
    incoming, parts = task(1)
    Journal(tmp_path).keep(incoming, {**parts, "nothing": b""}, NODE)
    assert kept(tmp_path) == [(incoming, {**parts, "nothing": b""})]


def test_a_server_cannot_choose_the_file(tmp_path) -> None:
    """Names in an envelope are the server's; the journal's own are hashes."""
    incoming, parts = task(1)
    message = message_of(incoming, dict(parts))
    message.metadata.__dict__["_message_id"] = "../../elsewhere"
    from flwr.common.serde import message_to_proto

    envelope = message_to_proto(message).SerializeToString()
    folder = tmp_path / "a" / "b" / "journal"
    Journal(folder).keep(Incoming(envelope, incoming.tree), parts, NODE)
    assert [file.parent for file in tmp_path.rglob("*.task")] == [folder]


def test_the_outbox_is_lines_of_json(tmp_path) -> None:
    path = tmp_path / "state" / "outbox.jsonl"
    parts = {"b" * 64: b"12345", "a" * 64: b"678"}
    before = datetime.now().astimezone()
    sizes = [Outbox(path).record(to="ä:1", run="run-1", what=what, parts=parts) for what in ("train 1", "train 2")]
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert sizes == [8, 8]
    assert [line["what"] for line in lines] == ["train 1", "train 2"]
    for line in lines:
        assert line.keys() == {"time", "to", "run", "what", "bytes", "sha256"}
        assert (line["to"], line["run"], line["bytes"]) == ("ä:1", "run-1", 8)
        assert line["sha256"] == hashlib.sha256(("a" * 64 + "\n" + "b" * 64).encode()).hexdigest()
        assert datetime.fromisoformat(line["time"]).utcoffset() == before.utcoffset()


def test_the_outbox_is_never_rewritten(tmp_path) -> None:
    path = tmp_path / "outbox.jsonl"
    path.write_text("what stood there before\n")
    Outbox(path).record(to="a", run="r", what="w", parts={})
    first = path.read_text()
    Outbox(path).record(to="a", run="r", what="a\nsecond line?", parts={})
    assert first.startswith("what stood there before\n{")
    assert path.read_text().startswith(first)
    assert path.read_text().count("\n") == 3


def test_bytes_are_those_that_travel(tmp_path) -> None:
    _, parts = task(1)
    size = Outbox(tmp_path / "outbox.jsonl").record(to="a", run="r", what="w", parts=parts)
    assert size == sum(len(part) for part in parts.values()) > 0
    assert all(hashlib.sha256(part).hexdigest() == name for name, part in parts.items())


def test_a_full_disk_is_one_line(tmp_path, monkeypatch) -> None:
    def full(_file) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(
        DataError, match=r"state_dir: .*\.task cannot be written \(.*No space left on device\): make room"
    ):
        Journal(tmp_path / "journal").keep(*task(1), NODE)
    with pytest.raises(DataError, match=r"state_dir: .*outbox\.jsonl cannot be written"):
        Outbox(tmp_path / "outbox.jsonl").record(to="a", run="r", what="w", parts={})
    monkeypatch.undo()
    assert kept(tmp_path / "journal") == []
