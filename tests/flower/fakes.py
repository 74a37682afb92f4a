"""Flower without a SuperLink: the real grid over a store in memory, and sites behind it that do as a test says."""

# ruff: noqa: N802 - Flower's names

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
from flwr.app import Message
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import ObjectTree, PullObjectResponse, PushObjectResponse
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.runtime_pb2 import GetNodesResponse, PullAppMessagesResponse, PushAppMessagesResponse
from flwr.server.superlink.linkstate.utils import create_message_error_unavailable_res_message
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.run import Run

from fedlens.core.types import ClientFailure, ClientResult, Task
from fedlens.data.types import FederatedData
from fedlens.errors import ConnectionFailed
from fedlens.flower.internals.grid import Grid
from fedlens.flower.internals.parts import Incoming, Outgoing, message_of, taken_apart
from fedlens.flower.message_handler import Goodbye, MessageHandler
from fedlens.flower.messages import HEAD, Description, Prepared, Refusal, Setup
from fedlens.training.client import ClientTrainer

Act = Callable[[Incoming, dict[str, bytes]], Outgoing | None]
"""What a site does with a message; None: it does not answer (now)."""


class FakeSuperLink:
    """What `Grid` calls in a SuperLink: messages and their parts as bytes. The sites work whenever the server asks who
    is there."""

    def __init__(self) -> None:
        self.nodes: dict[int, tuple[str, Act]] = {}
        self.down = False
        self.parts: dict[str, bytes] = {}
        self.waiting: dict[str, tuple[MessageProto, ObjectTree]] = {}
        self.replies: dict[str, tuple[MessageProto, ObjectTree]] = {}
        self.heard: list[tuple[int, str]] = []
        """(node, kind) of every message, in order."""
        self.given: set[str] = set()
        """Replies that were announced, which is done once."""
        self.on_their_way: set[str] = set()
        """Parts that are announced and not there yet."""
        self._ids = itertools.count(100)

    def join(self, act: Act, name: str = "") -> int:
        """A new node, whose key stands for `name`; gives its id."""
        node = next(self._ids)
        self.nodes[node] = (name, act)
        return node

    def leave(self, node: int) -> None:
        del self.nodes[node]

    def GetNodes(self, _request: Any) -> GetNodesResponse:
        self._reached()
        for message in list(self.waiting):
            self._deliver(message)
        return GetNodesResponse(nodes=[NodeInfo(node_id=node, name=name) for node, (name, _) in self.nodes.items()])

    def PushMessages(self, request: Any) -> PushAppMessagesResponse:
        self._reached()
        names = []
        wanted = set()
        for envelope, tree in zip(request.messages_list, request.message_object_trees, strict=True):
            names.append(envelope.metadata.message_id)
            self.waiting[names[-1]] = (envelope, tree)
            wanted |= {part.object_id for part in iterate_object_tree(tree)} - self.parts.keys()
        return PushAppMessagesResponse(message_ids=names, objects_to_push=wanted, session_id="one")

    def PushObject(self, request: Any) -> PushObjectResponse:
        self._reached()
        self.parts[request.object_id] = request.object_content
        return PushObjectResponse(stored=True)

    def PullMessages(self, request: Any) -> PullAppMessagesResponse:
        self._reached()
        fresh = [name for name in request.message_ids if name in self.replies and name not in self.given]
        self.given.update(fresh)
        found = [self.replies[name] for name in fresh]
        return PullAppMessagesResponse(
            messages_list=[envelope for envelope, _ in found], message_object_trees=[tree for _, tree in found]
        )

    def PullObject(self, request: Any) -> PullObjectResponse:
        self._reached()
        content = self.parts.get(request.object_id)
        return PullObjectResponse(
            object_found=content is not None,
            object_available=content is not None and request.object_id not in self.on_their_way,
            object_content=content or b"",
        )

    def ConfirmMessageReceived(self, request: Any) -> None:
        self._reached()
        for name, (envelope, _) in list(self.replies.items()):
            if envelope.metadata.message_id == request.message_object_id:
                del self.replies[name]

    def close(self) -> None: ...

    def _reached(self) -> None:
        if self.down:
            raise httpx.ConnectError("Connection refused")

    def _deliver(self, name: str) -> None:
        envelope, tree = self.waiting[name]
        answer = self._asked(envelope, tree)
        if answer is not None:
            del self.waiting[name]
            self.parts |= answer.parts
            self.replies[name] = (MessageProto.FromString(answer.envelope), ObjectTree.FromString(answer.tree))

    def _asked(self, envelope: MessageProto, tree: ObjectTree) -> Outgoing | None:
        node = envelope.metadata.dst_node_id
        if node not in self.nodes:
            gone = create_message_error_unavailable_res_message(
                message_from_proto(envelope).metadata, error_type="node_unavail"
            )
            return taken_apart(gone, 0.0)
        incoming = Incoming(envelope.SerializeToString(), tree.SerializeToString())
        parts = {part.object_id: self.parts[part.object_id] for part in iterate_object_tree(tree)}
        self.heard.append((node, kind_of(incoming, parts)))
        return self.nodes[node][1](incoming, parts)


def kind_of(incoming: Incoming, parts: dict[str, bytes]) -> str:
    records = message_of(incoming, dict(parts)).content.config_records
    return str(records[HEAD]["kind"]) if HEAD in records else ""


class FakeLink:
    """A `Link` to a `FakeSuperLink`; `renewed` is called with the next one when that is needed, None: there is none."""

    def __init__(self, superlink: FakeSuperLink, renewed: Callable[[FakeSuperLink], None] | None = None) -> None:
        self._renewed = renewed
        self.ended = False
        self.tended = 0
        self._connect(superlink)

    def _connect(self, superlink: FakeSuperLink) -> None:
        self.superlink = superlink
        self.grid = Grid("127.0.0.1:1", True, None, token="a token")
        self.grid.set_run(Run.create_empty(1))
        self.grid._client = superlink  # type: ignore[assignment]

    def lost(self) -> bool:
        return self.ended

    def renew(self) -> None:
        if self._renewed is None:
            raise ConnectionFailed("there is no other")
        self.ended = False
        self._connect(FakeSuperLink())
        self._renewed(self.superlink)

    def tend(self) -> None:
        self.tended += 1

    def allow(self, nbytes: int) -> None:
        self.grid.limit = nbytes


@dataclass(frozen=True)
class TinySite:
    """A site that trains the tests' small model, as `fedlens.flower.site.Site` would."""

    trainer: ClientTrainer
    data: FederatedData
    name: str
    partition: int
    identity: str
    clock: float = 0.0

    def describe(self) -> Description:
        size = int(self.data.images.shape[1])
        names, images = self.data.class_names, sum(map(sum, self._counts()))
        return Description(
            self.name, self.partition, self.identity, names, images, size, 1, "cpu", "0", "1.38", self.clock
        )

    def prepare(self, _setup: Setup) -> Prepared | Refusal:
        return Prepared(*self._counts())

    def run(self, task: Task, _setup: Setup) -> ClientResult | ClientFailure | Refusal:
        return self.trainer.run(task)

    def _counts(self) -> list[tuple[int, ...]]:
        (rows,) = [client for client in self.data.clients if client.name == self.name]
        return [tuple(self.data.class_counts(held).tolist()) for held in (rows.train, rows.val, rows.test)]


class Script:
    """A site's `Act`: what its desk answers, but for what a test changes.

    before  by kind of message: called instead of the desk; may call `honest`
    """

    def __init__(self, site: Any, **before: Callable[[Script, Incoming, dict[str, bytes]], Outgoing | None]) -> None:
        self._handler = MessageHandler(site)
        self._before = before
        self.farewell: Goodbye | None = None

    def __call__(self, incoming: Incoming, parts: dict[str, bytes]) -> Outgoing | None:
        act = self._before.get(kind_of(incoming, parts))
        return act(self, incoming, parts) if act else self.honest(incoming, parts)

    def honest(self, incoming: Incoming, parts: dict[str, bytes]) -> Outgoing | None:
        done = self._handler.do(incoming, dict(parts))
        if isinstance(done, Goodbye):
            self.farewell = done
            return None
        return done.reply


def silent(_script: Script, _incoming: Incoming, _parts: dict[str, bytes]) -> None:
    """Never answers."""


def altering(change: Callable[[Message], Message | None]) -> Callable[..., Outgoing | None]:
    """Answers what `change` makes of the honest reply."""

    def act(script: Script, incoming: Incoming, parts: dict[str, bytes]) -> Outgoing | None:
        honest = script.honest(incoming, parts)
        assert honest is not None
        reply = message_of(Incoming(honest.envelope, honest.tree), honest.parts)
        changed = change(reply)
        return None if changed is None else taken_apart(changed, 0.0)

    return act
