"""A site's connection to a SuperLink, to which it speaks as a SuperNode does, through Flower's own stubs.

It stays in one process: a stock SuperNode starts one for every message, and sleeps 3 s between looks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.client.grpc_rere_client.node_auth_client_interceptor import NodeAuthClientInterceptor
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    RegisterNodeFleetRequest,
    UnregisterNodeFleetRequest,
)
from flwr.proto.fleet_pb2_grpc import FleetStub
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.grpc import GRPC_MAX_MESSAGE_LENGTH
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import push_object_contents_from_iterable
from flwr.supercore.interceptors import RuntimeVersionClientInterceptor
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes

from fedlens.errors import ConnectionFailed
from fedlens.flower.internals.clocks import REFUSAL, difference
from fedlens.flower.internals.parts import Incoming, Outgoing, pull_parts
from fedlens.flower.proxy import is_loopback

HEARTBEAT_SECONDS = 10
"""The shortest that Flower allows; a SuperLink counts a node as gone after two of them."""

_CLOCK = time.time() - time.monotonic()
"""Changes when this machine's clock is set."""

_CALL_SECONDS = 30
_PART_SECONDS = 120
"""Time limit for one part of a message; two parts of at most 5 MB each are sent at a time."""

Keys = tuple[ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey]


class Refused(ConnectionFailed):
    """The server answered and refuses this client; trying again does not help."""


class WrongClock(Refused):
    """This machine's clock and the server's differ by more than the server takes, or it was set back."""


class NotActivated(ConnectionFailed):
    """The server does not accept this key. Flower gives no reason: either the key's last connection still counts, for
    two heartbeats, or the key is unknown."""


class HungUp(ConnectionFailed):
    """The other side closed the connection without an answer, as a TLS server does with a client without TLS."""


class FleetLink:
    """A site's connection to a SuperLink. Calls raise `ConnectionFailed` when the server cannot be reached.

    keys: the site's own pair that the server knows; None: a new pair that registers itself, which a server with
    authentication refuses.
    beat: called with every call to the server, but not by the heartbeats, which are a thread of their own.
    """

    def __init__(
        self,
        address: str,
        root_certificates: bytes | None,
        keys: Keys | None,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._beat = beat
        self._own = keys is None
        self._keys = keys or generate_key_pairs()
        interceptors = [
            RuntimeVersionClientInterceptor(component_name="SuperNode"),
            NodeAuthClientInterceptor(*self._keys),
        ]
        self._channel = grpc.intercept_channel(_channel(address, root_certificates), *interceptors)
        self._stub = FleetStub(self._channel)
        self._registered: int | None = None
        self._joined: Node | None = None
        self._stopped = threading.Event()
        self._heart = threading.Thread(target=self._heartbeats, daemon=True)
        self.lost = threading.Event()
        """Set when the server no longer knows this node: join again."""

    def join(self) -> int:
        """Register where that is open, activate, and begin the heartbeats; gives the node's id.

        Raises:
            NotActivated, Refused, ConnectionFailed
        """
        key = public_key_to_bytes(self._keys[1])
        if self._own:
            answer = self._call(self._stub.RegisterNode, RegisterNodeFleetRequest(public_key=key))
            self._registered = answer.node_id
        request = ActivateNodeRequest(public_key=key, heartbeat_interval=HEARTBEAT_SECONDS)
        self._joined = Node(node_id=self._call(self._stub.ActivateNode, request).node_id)
        self._heart.start()
        return int(self._joined.node_id)

    def receive(self) -> Incoming | None:
        """The next waiting message, if there is one."""
        response = self._call(self._stub.PullMessages, PullMessagesRequest(node=self._node))
        if not response.messages_list:
            return None
        return Incoming(
            response.messages_list[0].SerializeToString(), response.message_object_trees[0].SerializeToString()
        )

    def fetch(self, incoming: Incoming, limit: int) -> dict[str, bytes]:
        """The parts of a message.

        Raises:
            ProtocolError: they are larger than `limit` bytes together.
        """
        pull = make_pull_object_fn_protobuf(
            lambda request: self._call(self._stub.PullObject, request, _PART_SECONDS), self._node, incoming.run_id
        )
        return pull_parts(ObjectTree.FromString(incoming.tree), pull, limit)

    def confirm(self, incoming: Incoming) -> None:
        """Confirm that the message is stored here; the server removes its parts."""
        request = ConfirmMessageReceivedRequest(
            node=self._node, run_id=incoming.run_id, message_object_id=incoming.message_id
        )
        self._call(self._stub.ConfirmMessageReceived, request)

    def send(self, reply: Outgoing) -> None:
        """Send a reply with its parts."""
        request = PushMessagesRequest(
            node=self._node,
            messages_list=[MessageProto.FromString(reply.envelope)],
            message_object_trees=[ObjectTree.FromString(reply.tree)],
            clientapp_runtime_list=[reply.seconds],
        )
        response = self._call(self._stub.PushMessages, request)
        push = make_push_object_fn_protobuf(
            lambda part: self._call(self._stub.PushObject, part, _PART_SECONDS),
            self._node,
            reply.run_id,
            response.session_id,
        )
        wanted = set(response.objects_to_push)
        push_object_contents_from_iterable(
            ((name, content) for name, content in reply.parts.items() if name in wanted), push
        )

    def bundle_hash(self, run_id: int) -> str:
        """Which code the server's run was submitted with; it is compared, never fetched."""
        return str(self._call(self._stub.GetRun, GetRunRequest(node=self._node, run_id=run_id)).run.fab_hash)

    def withdraw(self) -> None:
        """Leave, and undo the registration by `join`, so that the server does not list this node any more."""
        self._stopped.set()
        self._leave()
        if self._registered is not None:
            with suppress(grpc.RpcError):
                self._stub.UnregisterNode(UnregisterNodeFleetRequest(node_id=self._registered), timeout=2)
        self.close(leave=False)

    def close(self, *, leave: bool = True) -> None:
        """End the connection; `leave` tells the server, which then counts this node as gone at once."""
        self._stopped.set()
        if leave:
            self._leave()
        self._channel.close()

    def _leave(self) -> None:
        if self._joined is not None:
            with suppress(grpc.RpcError):  # the server notices by itself
                self._stub.DeactivateNode(DeactivateNodeRequest(node_id=self._node.node_id), timeout=2)

    @property
    def _node(self) -> Node:
        assert self._joined is not None, "join comes first"
        return self._joined

    def _call(self, method: Callable[..., Any], request: Any, seconds: float = _CALL_SECONDS) -> Any:
        self._beat()
        began = time.monotonic()
        try:
            return method(request, timeout=seconds)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED and time.monotonic() - began < seconds / 2:
                raise WrongClock(_set_back()) from error
            raise _translated(error) from error
        except ValueError as error:  # the channel was closed by another thread
            raise ConnectionFailed(str(error)) from error

    def _heartbeats(self) -> None:
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_SECONDS)
        while not self._stopped.wait(HEARTBEAT_SECONDS / 3):
            try:
                if not self._stub.SendNodeHeartbeat(request, timeout=HEARTBEAT_SECONDS / 3).success:
                    self.lost.set()
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                    self.lost.set()
            except ValueError:  # closed
                return


def _set_back() -> str:
    """Why a call timed out before it began: gRPC counts from this machine's clock as it was at the start."""
    seconds = _CLOCK - (time.time() - time.monotonic())
    by = f" by {seconds:,.0f} s" if seconds > 1 else ""
    return f"this machine's clock was set back{by} since the start of this program; start it again"


def _channel(address: str, root_certificates: bytes | None) -> grpc.Channel:
    """A channel as Flower makes it, except that it does not use a proxy for a server on this machine."""
    sizes = ("grpc.max_send_message_length", "grpc.max_receive_message_length")
    options: list[tuple[str, int]] = [(key, GRPC_MAX_MESSAGE_LENGTH) for key in sizes]
    if is_loopback(address.rpartition(":")[0].strip("[]")):
        options.append(("grpc.enable_http_proxy", 0))
    if root_certificates is None:
        return grpc.insecure_channel(address, options)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(root_certificates), options)


_FAILURES: Sequence[tuple[str, type[ConnectionFailed], str]] = (
    ("failed to activate supernode", NotActivated, "the server does not let this client in"),
    # a SuperLink that was started anew, or a key that was revoked: joining again tells which
    ("invalid node id", ConnectionFailed, "the server does not know this client any more"),
    (
        "certificate has expired",
        Refused,
        "the server's certificate has expired; its administrator makes a new one with `fedlens certs renew`",
    ),
    (
        "certificate is not yet valid",
        Refused,
        "the server's certificate is not valid yet; compare both machines' clocks",
    ),
    (
        "hostname verification",
        Refused,
        "the server's certificate does not name this address; give one that it names, or "
        "have it renewed with `fedlens certs renew --hosts`",
    ),
    ("wrong_version_number", Refused, "the server does not speak TLS; it was started without --certs"),
    (
        "certificate_verify_failed",
        Refused,
        "the server's certificate is not by the authority in ca.crt; take the folder "
        "that its administrator made for this site",
    ),
    ("handshake failed", Refused, ""),
    ("socket closed", HungUp, ""),
)
"""Words in gRPC's text of a failed call, in lower case → the error and its message; "": gRPC's text."""


def _translated(error: grpc.RpcError) -> ConnectionFailed:
    """The error for a failed call."""
    code, details = error.code(), str(error.details() or "")
    if REFUSAL.lower() in details.lower():
        return WrongClock(difference(details))
    for words, kind, meaning in _FAILURES:
        if words in details.lower():
            return kind(meaning or details)
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.FAILED_PRECONDITION) or "public key" in details:
        return Refused(details)
    return ConnectionFailed(f"{code.name.lower().replace('_', ' ')}: {details}")
