"""A message, and the parts in which Flower sends it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from flwr.app import Array, Message
from flwr.app.message import remove_content_from_message
from flwr.app.message.arraychunk import ArrayChunk
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
    get_object_tree,
    get_object_type_from_object_content,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import (
    inflate_object_from_contents,
    pull_objects,
)

from fedlens.errors import ProtocolError

LOOK_SECONDS = 0.1
"""Time between two looks for what is on its way: each look is a call that the SuperLink answers."""

LARGEST_RECORD = 2_000_000
"""Bytes of a part that holds no tensor: names, numbers, the description of a run. Flower takes seconds to read so much
of it."""


@dataclass(frozen=True)
class Incoming:
    """A message that waits to be fetched: its envelope and the names of its parts."""

    envelope: bytes
    tree: bytes

    @property
    def run_id(self) -> int:
        return int(MessageProto.FromString(self.envelope).metadata.run_id)

    @property
    def message_id(self) -> str:
        return str(MessageProto.FromString(self.envelope).metadata.message_id)

    @property
    def content_id(self) -> str:
        """The hash of the content: two messages with the same content share it."""
        return ",".join(child.object_id for child in ObjectTree.FromString(self.tree).children)


@dataclass(frozen=True)
class Outgoing:
    """A reply taken apart: envelope, names of its parts, and the parts by name."""

    envelope: bytes
    tree: bytes
    parts: dict[str, bytes]
    seconds: float

    @property
    def run_id(self) -> int:
        return int(MessageProto.FromString(self.envelope).metadata.run_id)


def pull_parts(tree: ObjectTree, pull: Callable[[str], bytes], limit: int) -> dict[str, bytes]:
    """All parts of a message, but no more than `limit` bytes."""
    names = [part.object_id for part in iterate_object_tree(tree)]
    lock, held = threading.Lock(), 0

    def bounded(name: str) -> bytes:
        nonlocal held
        content = pull(name)
        with lock:
            held += len(content)
            if held > limit:
                raise ProtocolError(f"a message of more than {limit / 1e6:,.1f} MB")
        return content

    return pull_objects(list(dict.fromkeys(names)), bounded, initial_backoff=LOOK_SECONDS, backoff_cap=LOOK_SECONDS)


def inflated(name: str, parts: dict[str, bytes]) -> InflatableObject:
    """The object `name`; `parts` is empty then. Flower keeps the pieces of all arrays until the whole message is there,
    which is a second model; here those of an array are free once it is made.

    Raises:
        ProtocolError: a part without tensors is larger than `LARGEST_RECORD`.
    """
    arrays: dict[str, InflatableObject] = {}
    kinds = {part: get_object_type_from_object_content(content) for part, content in parts.items()}
    for part, kind in kinds.items():
        if kind not in (Array.__name__, ArrayChunk.__name__) and len(parts[part]) > LARGEST_RECORD:
            raise ProtocolError(f"a {kind} of {len(parts[part]) / 1e6:.1f} MB")
    for part, kind in kinds.items():
        if part in parts and kind == Array.__name__:
            arrays[part] = inflate_object_from_contents(part, parts)
    return inflate_object_from_contents(name, parts, objects=arrays)


def envelope_of(incoming: Incoming) -> Message:
    """The message without its content: enough to reply to it."""
    return message_from_proto(MessageProto.FromString(incoming.envelope))


def message_of(incoming: Incoming, parts: dict[str, bytes]) -> Message:
    """The message that `parts` make up.

    Raises:
        ProtocolError: they do not make up a message.
    """
    envelope = envelope_of(incoming)
    try:
        message = inflated(envelope.metadata.message_id, parts)
    except Exception as error:  # Flower's parsers may raise anything on malformed bytes
        raise ProtocolError(f"a broken message: {error}") from error
    if not isinstance(message, Message):
        raise ProtocolError(f"a {type(message).__name__} where a message was expected")
    message.metadata.__dict__["_message_id"] = envelope.metadata.message_id
    return message


def taken_apart(reply: Message, seconds: float) -> Outgoing:
    """A reply in the form that `FleetLink.send` sends; `seconds`: time that its work took."""
    with no_object_id_recompute():  # an id is the hash of the content: once is enough
        reply.metadata.__dict__["_message_id"] = reply.object_id
        parts = {name: part.deflate() for name, part in get_all_nested_objects(reply).items()}
        tree = get_object_tree(reply).SerializeToString()
    envelope = message_to_proto(remove_content_from_message(reply))
    return Outgoing(envelope.SerializeToString(), tree, parts, seconds)
