"""A visit leaves nothing behind: at Flower's own fleet service, and with messages that wait."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import grpc
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.proto.fleet_pb2_grpc import add_FleetServicer_to_server
from flwr.server.superlink.fleet.grpc_rere.fleet_servicer import FleetServicer
from flwr.server.superlink.fleet.grpc_rere.node_auth_server_interceptor import NodeAuthServerInterceptor
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NodeStatus
from flwr.supercore.interceptors import RpcErrorTranslationServerInterceptor
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager

from fedlens.diagnose import visit as module
from fedlens.diagnose.outcome import Barred, Joined, Welcome
from fedlens.errors import ProtocolError
from fedlens.flower.bundle import bundle
from fedlens.flower.internals.parts import Incoming, message_of, taken_apart
from fedlens.flower.messages import HEAD, Refusal, Visit, head, inquiry, read_reply

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # of Flower's builder


class Fleet:
    """What a SuperLink serves to sites. It has no run, so it has nothing to say."""

    def __init__(self, *, keys: bool) -> None:
        objects = ObjectStoreFactory()
        states = LinkStateFactory(FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), objects)
        self.state = states.state()
        checks = [RpcErrorTranslationServerInterceptor(), *([NodeAuthServerInterceptor(states)] if keys else [])]
        self.server = grpc.server(ThreadPoolExecutor(4), interceptors=checks)
        add_FleetServicer_to_server(FleetServicer(states, objects, keys), self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def knows(self, keys) -> int:
        return self.state.create_node("", "", public_key_to_bytes(keys[1]), 10)

    def status(self) -> dict[int, str]:
        return {node: info.status for node, info in self.state.nodes.items()}


@pytest.fixture
def fleet(monkeypatch):
    """Makes them; nobody waits for what they do not say."""
    monkeypatch.setattr(module, "HEAR_SECONDS", 0.1)
    made = []

    def make(*, keys):
        made.append(Fleet(keys=keys))
        return made[-1]

    yield make
    for one in made:
        one.server.stop(None).wait()


def test_a_key_of_the_doctors_own_is_taken_back(fleet):
    open_to_all = fleet(keys=False)
    assert module.visit(open_to_all.address, None, None) == Joined()
    assert list(open_to_all.status().values()) == [NodeStatus.UNREGISTERED]


def test_a_sites_key_is_free_again(fleet):
    closed, keys = fleet(keys=True), generate_key_pairs()
    node = closed.knows(keys)
    assert module.visit(closed.address, None, keys) == Joined()
    assert closed.status() == {node: NodeStatus.OFFLINE}
    assert module.visit(closed.address, None, keys) == Joined()


def test_a_key_that_is_unknown_or_in_use(fleet):
    closed, keys = fleet(keys=True), generate_key_pairs()
    barred = module.visit(closed.address, None, keys)
    assert isinstance(barred, Barred) and barred.why == "key"
    node = closed.knows(keys)
    closed.state.activate_node(node, 10)
    assert module.visit(closed.address, None, keys) == barred
    assert closed.status() == {node: NodeStatus.ONLINE}


def test_nobody_there():
    barred = module.visit("127.0.0.1:1", None, None)
    assert isinstance(barred, Barred) and barred.why == "other"
    assert "unavailable" in barred.text


class Line:
    """A link over which `messages` come; `code`: hash of what their run stands for."""

    def __init__(self, *messages: Message, code: str = "") -> None:
        self._coming = [taken_apart(message, 0.0) for message in messages]
        self._code = code or bundle().hash_str
        self._parts = {}
        self.confirmed: list[str] = []
        self.said: list[object] = []

    def receive(self):
        if not self._coming:
            return None
        message = self._coming.pop(0)
        incoming = Incoming(message.envelope, message.tree)
        self._parts[incoming.message_id] = message.parts
        return incoming

    def fetch(self, incoming, _limit):
        return dict(self._parts[incoming.message_id])

    def confirm(self, incoming):
        self.confirmed.append(incoming.message_id)

    def send(self, answer):
        self.said.append(read_reply(message_of(Incoming(answer.envelope, answer.tree), answer.parts).content))

    def bundle_hash(self, _run_id):
        return self._code


@pytest.fixture(autouse=True)
def a_servers_process(monkeypatch):
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    monkeypatch.setattr(module, "HEAR_SECONDS", 0.1)


def message(content, kind="query"):
    made = Message(content, 7, kind, ttl=60, group_id="run-1")
    made.metadata.__dict__["_message_id"] = made.object_id
    return made


def test_what_the_server_says():
    line = Line(message(inquiry("client1", [0, 2])))
    heard = module._hear(line)
    assert isinstance(heard, Welcome)
    assert (heard.fedlens, heard.flwr) == (version("fedlens"), version("flwr"))
    assert (heard.registered, heard.present, heard.same_code) == ("client1", (0, 2), True)
    assert 0 <= heard.ahead < 60
    assert line.said == [Visit()]
    assert len(line.confirmed) == 1


def test_a_task_that_waits_for_the_client_is_not_left_unanswered():
    task = message(RecordDict({HEAD: head("train", None)}), "train")
    line = Line(task, message(inquiry("", [])))
    assert isinstance(module._hear(line), Welcome)
    refusal, seen = line.said
    assert isinstance(refusal, Refusal) and not refusal.final
    assert seen == Visit()
    assert len(line.confirmed) == 2


def test_another_apps_messages_are_left_alone():
    line = Line(message(RecordDict({"theirs": ConfigRecord({"a": 1})})), code="another")
    with pytest.raises(ProtocolError, match="not one of FedLens'"):
        module._hear(line)
    assert line.said == line.confirmed == []


def test_a_server_of_another_version():
    old = head("describe", None)
    old["fedlens"] = "0.0.1"
    with pytest.raises(ProtocolError, match=r"0\.0\.1 at the server"):
        module._hear(Line(message(RecordDict({HEAD: old})), code="another"))


def test_a_server_that_says_nothing():
    assert module._hear(Line()) == Joined()
