"""Messages to sites and their replies: Flower's `HttpGrid`, without its waiting."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar, cast

import httpx
from flwr.app import Error, Message, Metadata
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.grid import HttpGrid

from fedlens.errors import ConnectionFailed, ProtocolError
from fedlens.flower.internals.direct import DirectRuntimeClient
from fedlens.flower.internals.parts import inflated, pull_parts

T = TypeVar("T")

NODE_GONE = frozenset({ErrorCode.NODE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE})
"""Codes of the errors that mean that a node is gone. With any other, its app has failed, or its reply is lost."""


class Grid(HttpGrid):
    """Flower's grid, without its waiting: a call to a SuperLink that is gone fails at once, and a reply of which parts
    are still on their way is looked for again with the next call. Flower would wait for the parts, minutes for those of
    a site that was cut off, and everybody with it.

    `limit`: the largest reply, in bytes, that `pull_messages` takes in; a larger one is an error reply.
    """

    limit: int = 2**31

    def __init__(self, address: str, insecure: bool, root_certificates: bytes | None, *, token: str) -> None:
        super().__init__(address, insecure, root_certificates, token=token)
        self._retry_invoker.max_tries = 1
        interceptors: list[Any] = [
            RuntimeVersionHttpInterceptor(component_name="flwr-serverapp"),
            RuntimeTokenHttpInterceptor(token=token),
        ]
        self._client = DirectRuntimeClient.from_server_address(
            address, insecure, root_certificates, interceptors, retry_invoker=self._retry_invoker
        )
        self._announced: dict[str, tuple[MessageProto, ObjectTree]] = {}

    @property
    def client(self) -> RuntimeHttpClient:
        """The typed calls beneath the grid."""
        return super()._runtime_client

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to these messages of which every part is here."""
        found = [self._reply(name) for name in message_ids]
        return [reply for reply in found if reply is not None]

    def _reply(self, name: str) -> Message | None:
        announced = self._announced.get(name) or self._announcement(name)
        if announced is None:
            return None
        envelope, tree = self._announced[name] = announced
        try:
            parts = self._parts(tree)
        except _OnItsWay:
            return None
        except _CutOff as error:
            del self._announced[name]
            return _error_reply(name, ErrorCode.REPLY_MESSAGE_UNAVAILABLE, str(error))
        except ProtocolError as error:
            del self._announced[name]
            reason = f"{error}, larger than any answer to this task can be"
            return _error_reply(name, ErrorCode.MESSAGE_UNAVAILABLE, reason)
        del self._announced[name]
        return self._inflated(envelope.metadata.message_id, parts)

    def _announcement(self, name: str) -> tuple[MessageProto, ObjectTree] | None:
        """A reply's envelope and tree, which the SuperLink gives once."""
        response = self.client.PullMessages(PullAppMessagesRequest(message_ids=[name]))
        return next(zip(response.messages_list, response.message_object_trees, strict=True), None)

    def _parts(self, tree: ObjectTree) -> dict[str, bytes]:
        def fetch(name: str) -> bytes:
            request = PullObjectRequest(node=self.node, run_id=self.run.run_id, object_id=name)
            response = self.client.PullObject(request)
            if not response.object_found:
                raise _CutOff("its sender was cut off")
            if not response.object_available:
                raise _OnItsWay
            return bytes(response.object_content)

        fetch(tree.object_id)  # it is sent last
        return pull_parts(tree, fetch, self.limit)

    def _inflated(self, message_id: str, parts: dict[str, bytes]) -> Message:
        self.client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(node=self.node, run_id=self.run.run_id, message_object_id=message_id)
        )
        message = cast(Message, inflated(message_id, parts))
        message.metadata.__dict__["_message_id"] = message_id
        return message


class _OnItsWay(Exception):
    """A part of a message is announced but has not arrived yet."""


class _CutOff(Exception):
    """A part of a message did not come within three minutes, and the SuperLink has forgotten the message."""


def calling(grid: Any, call: Callable[[Any], T]) -> T:
    """`call(grid)`.

    Raises:
        ConnectionFailed: the SuperLink behind the grid cannot be reached.
    """
    try:
        return call(grid)
    except httpx.HTTPError as error:
        raise ConnectionFailed(str(error) or type(error).__name__) from error


def replies(grid: Any, name: str) -> list[Message]:
    """The reply to the message `name`, if it is there. One that cannot be read is an error reply."""
    try:
        return list(grid.pull_messages([name]))
    except httpx.HTTPError:
        raise
    except Exception as error:  # Flower's parsers may raise anything on malformed bytes
        return [_error_reply(name, ErrorCode.MESSAGE_UNAVAILABLE, f"a broken message: {error}")]


def _error_reply(name: str, code: int, reason: str) -> Message:
    """In place of a reply to `name`: as Flower does where parts of one are missing."""
    metadata = Metadata(
        run_id=0,
        message_id="",
        src_node_id=0,
        dst_node_id=0,
        reply_to_message_id=name,
        group_id="",
        created_at=time.time(),
        ttl=0,
        message_type="query",
    )
    return make_message(metadata, error=Error(code, reason))


class Connection(NamedTuple):
    """name: that a node's key is registered for, "" without authentication; since: when it joined, "" where nobody
    knows. A node that joined anew has lost what it was told before."""

    name: str = ""
    since: str = ""


def nodes_online(grid: Any) -> dict[int, Connection]:
    """The nodes that are connected now, by id."""
    if isinstance(grid, HttpGrid):
        return {int(node.node_id): Connection(str(node.name), str(node.last_activated_at)) for node in grid.get_nodes()}
    return {int(node): Connection() for node in grid.get_node_ids()}
