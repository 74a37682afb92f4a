"""The pinned Flower against what `internals` takes for granted of it: a new version has to pass here first."""

from __future__ import annotations

import hashlib
import importlib
import re
import subprocess
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace

import grpc
import httpx
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_object_id, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectUnavailableError,
    inflate_object_from_contents,
    validate_object_content,
)
from tests.flower.fakes import FakeLink, FakeSuperLink

from fedlens.errors import ConnectionFailed, ProtocolError
from fedlens.flower.bundle import bundle, files
from fedlens.flower.internals import fleet, run
from fedlens.flower.internals.fleet import FleetLink, NotActivated, Refused
from fedlens.flower.internals.grid import NODE_GONE, Connection, Grid, calling, nodes_online, replies
from fedlens.flower.internals.parts import Incoming, envelope_of, message_of, pull_parts, taken_apart

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # of Flower's builder

CONTENT = RecordDict(
    {
        "head": ConfigRecord({"kind": "train", "round": 3, "bytes": b"\x00\xff"}),
        "numbers": MetricRecord({"loss": [0.5, 2.0]}),
        "payload": ArrayRecord({"value": Array("bfloat16", (2, 3), "fedlens.bytes", bytes(range(12)))}),
    }
)


def question() -> Message:
    """A message as a server's grid sends it."""
    message = Message(CONTENT, 7, "train", ttl=60, group_id="run-1")
    message.metadata.__dict__["_message_id"] = message.object_id
    return message


# -- messages in parts -------------------------------------------------------------------------------------------------


def test_a_question_is_read_as_it_was_sent() -> None:
    sent = taken_apart(question(), 0.0)
    incoming = Incoming(sent.envelope, sent.tree)
    read = message_of(incoming, dict(sent.parts))
    assert read.content == CONTENT
    assert read.metadata == envelope_of(incoming).metadata
    assert (read.metadata.message_type, read.metadata.group_id, read.metadata.dst_node_id) == ("train", "run-1", 7)
    assert incoming.run_id == 1
    assert incoming.message_id == read.metadata.message_id == read.object_id


def test_a_reply_as_flower_reads_it() -> None:
    asked = question()
    sent = taken_apart(Message(CONTENT, reply_to=asked), 1.5)
    envelope = MessageProto.FromString(sent.envelope)
    names = [part.object_id for part in iterate_object_tree(ObjectTree.FromString(sent.tree))]
    assert not message_from_proto(envelope).content
    assert envelope.metadata.reply_to_message_id == asked.metadata.message_id
    assert envelope.metadata.src_node_id == 7
    assert set(names) == set(sent.parts)
    for name, part in sent.parts.items():
        assert get_object_id(part) == name
        validate_object_content(part)  # as a SuperLink does; raises
    read = inflate_object_from_contents(envelope.metadata.message_id, dict(sent.parts))
    assert read.content == CONTENT
    assert (sent.run_id, sent.seconds) == (1, 1.5)


def test_reading_a_message_uses_up_its_parts() -> None:
    """What Flower does to save memory; whoever needs the parts later has to keep a copy."""
    sent = taken_apart(question(), 0.0)
    message_of(Incoming(sent.envelope, sent.tree), sent.parts)
    assert not sent.parts


def root_of(parts: dict[str, bytes]) -> str:
    return list(parts)[-1]


def test_broken_parts_are_a_protocol_error() -> None:
    sent = taken_apart(question(), 0.0)
    incoming = Incoming(sent.envelope, sent.tree)
    for name in sent.parts:
        for content in (b"", b"rubbish", b"Message  7\x00rubbish", b"ConfigRecord  1\x00?", b"NoSuchThing  0\x00"):
            with pytest.raises(ProtocolError, match=r"^a broken message|^a .* where a message was expected"):
                message_of(incoming, {**sent.parts, name: content})
        with pytest.raises(ProtocolError, match=r"^a broken message"):
            message_of(incoming, {other: part for other, part in sent.parts.items() if other != name})


# -- fetching ----------------------------------------------------------------------------------------------------------


def test_all_parts_are_fetched_once() -> None:
    sent = taken_apart(question(), 0.0)
    asked: list[str] = []

    def pull(name: str) -> bytes:
        asked.append(name)
        return sent.parts[name]

    assert pull_parts(ObjectTree.FromString(sent.tree), pull, 10**6) == sent.parts
    assert sorted(asked) == sorted(sent.parts)


def test_a_part_that_is_not_there_yet_is_asked_for_again() -> None:
    sent = taken_apart(question(), 0.0)
    late = {root_of(sent.parts)}

    def pull(name: str) -> bytes:
        if name in late:
            late.remove(name)
            raise ObjectUnavailableError(name)
        return sent.parts[name]

    assert pull_parts(ObjectTree.FromString(sent.tree), pull, 10**6) == sent.parts


def test_fetching_stops_at_the_limit() -> None:
    names = [f"{number:064}" for number in range(1000)]
    tree = ObjectTree(object_id="f" * 64, children=[ObjectTree(object_id=name) for name in names])
    asked, lock = [], threading.Lock()

    def pull(name: str) -> bytes:
        with lock:
            asked.append(name)
        return bytes(1000)

    with pytest.raises(ProtocolError, match=r"a message of more than 0\.0 MB"):
        pull_parts(tree, pull, 10_000)
    assert 11 <= len(asked) < 100  # those that were under way


def test_the_limit_is_the_most_that_is_taken() -> None:
    sent = taken_apart(question(), 0.0)
    size = sum(map(len, sent.parts.values()))
    assert pull_parts(ObjectTree.FromString(sent.tree), sent.parts.__getitem__, size) == sent.parts
    with pytest.raises(ProtocolError):
        pull_parts(ObjectTree.FromString(sent.tree), sent.parts.__getitem__, size - 1)


# -- the bundle --------------------------------------------------------------------------------------------------------


def test_the_bundles_hash_is_the_same_in_another_process() -> None:
    """And the module that compares it, in a site's connection, needs no PyTorch."""
    say = "print(bundle().hash_str, 'torch' in sys.modules)"
    code = f"import sys; from fedlens.flower.bundle import bundle; {say}"
    environment = {"PYTHONHASHSEED": "7", "TZ": "Pacific/Auckland", "PATH": "", "FLWR_TELEMETRY_ENABLED": "0"}
    command = [sys.executable, "-c", code]
    other = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert other.split() == [bundle().hash_str, "False"]
    assert bundle().hash_str == hashlib.sha256(bundle().content).hexdigest()


def test_the_bundle_names_things_that_exist() -> None:
    for module, names in re.findall(r"from (\S+) import (.+)", files()["fedlens_app/app.py"]):
        for name in names.split(", "):
            assert hasattr(importlib.import_module(module), name), name


def test_other_files_have_another_hash() -> None:
    changed = {name: text.encode() for name, text in files().items()}
    assert run.built(changed).hash_str == bundle().hash_str
    changed["fedlens_app/app.py"] += b"# more"
    assert run.built(changed).hash_str != bundle().hash_str


# -- the grid ----------------------------------------------------------------------------------------------------------


class Echo:
    """A site that replies with what it was sent."""

    def __init__(self, change=lambda reply: reply) -> None:
        self._change = change

    def __call__(self, incoming, parts):
        message = message_of(incoming, dict(parts))
        return self._change(taken_apart(Message(message.content, reply_to=message), 0.0))


def through(change=lambda reply: reply, limit: int | None = None) -> list[Message]:
    """The reply to a question that a grid has sent."""
    superlink = FakeSuperLink()
    link = FakeLink(superlink)
    node = superlink.join(Echo(change))
    (name,) = link.grid.push_messages([Message(CONTENT, node, "train", ttl=60, group_id="run-1")])
    if limit is not None:
        link.grid.limit = limit
    assert replies(link.grid, name) == []
    link.grid.get_node_ids()  # the sites work
    found = replies(link.grid, name)
    assert all(message.metadata.reply_to_message_id == name for message in found)
    return found


def test_a_reply_comes_through_the_grid() -> None:
    (reply,) = through()
    assert reply.content == CONTENT


def test_the_grid_takes_no_more_than_its_limit() -> None:
    sizes: list[int] = []

    def measured(reply):
        sizes.append(sum(map(len, reply.parts.values())))
        return reply

    through(measured)
    (whole,) = through(limit=sizes[0] + 8)  # a timestamp may be written a little longer
    assert whole.content == CONTENT
    (cut,) = through(limit=sizes[0] - 8)
    assert cut.error.code not in NODE_GONE
    assert "larger than any answer to this task can be" in cut.error.reason


def test_a_reply_that_cannot_be_read_is_an_error_reply() -> None:
    def breaking(reply):
        return SimpleNamespace(
            envelope=reply.envelope, tree=reply.tree, parts={**reply.parts, root_of(reply.parts): b"Message  1\x00?"}
        )

    (reply,) = through(breaking)
    assert reply.error.code not in NODE_GONE
    assert reply.error.reason.startswith("a broken message: ")


def test_a_reply_whose_parts_are_on_their_way_is_there_later() -> None:
    superlink = FakeSuperLink()
    grid = FakeLink(superlink).grid
    node = superlink.join(Echo())
    (name,) = grid.push_messages([Message(CONTENT, node, "train")])
    grid.get_node_ids()
    _, tree = superlink.replies[name]
    for part in iterate_object_tree(tree):
        superlink.on_their_way = {part.object_id}
        assert replies(grid, name) == []
    superlink.on_their_way = set()
    (reply,) = replies(grid, name)
    assert reply.content == CONTENT


def test_a_reply_whose_sender_was_cut_off_counts_as_gone() -> None:
    (reply,) = through(lambda reply: replace(reply, parts={}))
    assert reply.error.code in NODE_GONE
    assert reply.error.reason == "its sender was cut off"


def test_a_node_that_has_gone_is_an_error_of_its_own() -> None:
    superlink = FakeSuperLink()
    grid = FakeLink(superlink).grid
    node = superlink.join(Echo())
    (name,) = grid.push_messages([Message(CONTENT, node, "train")])
    superlink.leave(node)
    grid.get_node_ids()
    (reply,) = replies(grid, name)
    assert reply.error.code in NODE_GONE
    assert ErrorCode.CLIENT_APP_RAISED_EXCEPTION not in NODE_GONE


def test_nodes_and_their_names() -> None:
    superlink = FakeSuperLink()
    first, second = superlink.join(Echo(), "client1"), superlink.join(Echo())
    assert nodes_online(FakeLink(superlink).grid) == {first: Connection("client1"), second: Connection()}
    assert nodes_online(SimpleNamespace(get_node_ids=lambda: [5])) == {5: Connection()}


def test_a_grid_without_a_superlink_fails_at_once() -> None:
    superlink = FakeSuperLink()
    superlink.down = True
    grid = FakeLink(superlink).grid
    for call in (nodes_online, lambda grid: replies(grid, "name"), lambda grid: grid.push_messages([question()])):
        with pytest.raises(ConnectionFailed, match="Connection refused"):
            calling(grid, call)


def test_the_real_grid_does_not_retry() -> None:
    grid = Grid("127.0.0.1:9", True, None, token="a token")  # the discard port: nobody listens
    with pytest.raises(httpx.ConnectError):
        grid.get_node_ids()
    grid.close()


# -- errors of a site's connection -------------------------------------------------------------------------------------


class Failed(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__()
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        ("FAILED_PRECONDITION", "Failed to activate SuperNode", NotActivated),
        ("UNAUTHENTICATED", "Access denied", Refused),
        ("UNAUTHENTICATED", "Invalid timestamp", fleet.WrongClock),
        ("UNAUTHENTICATED", "Invalid node ID", ConnectionFailed),
        ("FAILED_PRECONDITION", "SuperNode registration is disabled", Refused),
        ("ALREADY_EXISTS", "The public key is already in use", Refused),
        ("UNAVAILABLE", "Ssl handshake failed: certificate verify failed", Refused),
        ("UNAVAILABLE", "Hostname Verification Check failed", Refused),
        ("UNAVAILABLE", "ipv4:127.0.0.1:9: Socket closed", fleet.HungUp),
        ("UNAVAILABLE", "failed to connect to all addresses", ConnectionFailed),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", ConnectionFailed),
    ],
)
def test_what_a_failed_call_means(code: str, details: str, kind: type) -> None:
    found = fleet._translated(Failed(grpc.StatusCode[code], details))
    assert type(found) is kind


def test_nobody_listens() -> None:
    link = FleetLink("127.0.0.1:9", None, None)
    with pytest.raises(ConnectionFailed, match="unavailable") as caught:
        link.join()
    assert type(caught.value) is ConnectionFailed
    link.close()


def test_the_activation_error_is_worded_as_we_read_it() -> None:
    from flwr.supercore.error.catalog import API_ERROR_MAP, ApiErrorCode

    public = API_ERROR_MAP[ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED].public_message
    assert "Failed to activate SuperNode" in public
