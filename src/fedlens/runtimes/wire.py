"""Messages between a run's own processes; tensors are sent next to the pickle, without a copy.

Pickle is safe here because both ends are one program: worker processes of this machine over a pipe, or actors that
this run started over a Ray cluster, which trusts its network as Ray does. No file and no machine of
another party is read this way.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Mapping
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Tensor):
            dense = obj.detach().cpu().contiguous()
            buffer = pickle.PickleBuffer(dense.view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
            return _tensor, (buffer, dense.dtype, dense.shape)
        return NotImplemented


def pack(message: object) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """The pickle of `message`, and views of its tensors' bytes."""
    buffers: list[pickle.PickleBuffer] = []
    stream = io.BytesIO()
    _Pickler(stream, protocol=5, buffer_callback=buffers.append).dump(message)
    return stream.getvalue(), buffers


def unpack(head: bytes, buffers: Iterable[bytearray]) -> Any:
    """The message of a pickle and its tensors' bytes; the tensors use these bytes without a copy."""
    return pickle.loads(head, buffers=buffers)


def send(connection: Connection, message: object) -> None:
    """Write one message: the pickle, then its tensors' bytes."""
    head, buffers = pack(message)
    connection.send_bytes(head)
    connection.send([buffer.raw().nbytes for buffer in buffers])
    for buffer in buffers:
        if buffer.raw().nbytes:
            connection.send_bytes(buffer.raw())


def beside(parts: Mapping[str, bytes]) -> dict[str, Any]:
    """`parts` for a message, to go beside the pickle without a copy; `whole` makes bytes of them again."""
    return {name: pickle.PickleBuffer(part) for name, part in parts.items()}


def whole(parts: Mapping[str, Any]) -> dict[str, bytes]:
    """What `beside` sent, as it arrives."""
    return {name: bytes(part) for name, part in parts.items()}


def receive(connection: Connection) -> Any:
    """Read one message.

    Raises:
        EOFError: the other side is gone.
    """
    head = connection.recv_bytes()
    buffers = [bytearray(size) for size in connection.recv()]
    for buffer in buffers:
        if buffer:
            connection.recv_bytes_into(buffer)
    return unpack(head, buffers)


def _tensor(buffer: Any, dtype: torch.dtype, shape: torch.Size) -> Tensor:
    if not len(buffer):
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(buffer, dtype=dtype).view(shape)
