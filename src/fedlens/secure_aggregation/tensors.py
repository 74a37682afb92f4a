"""Bytes as tensors, which is how everything travels and is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fedlens.errors import ProtocolError


def to_tensor(content: bytes) -> Tensor:
    """uint8, (len(content),)."""
    return torch.from_numpy(np.frombuffer(content, np.uint8).copy())


def from_tensor(tensor: Tensor) -> bytes:
    return tensor.numpy().tobytes()


def rows(parts: Mapping[str, bytes], names: Sequence[str], length: int) -> Tensor:
    """uint8, (len(names), length): the part of each name; zeros where there is none."""
    return to_tensor(b"".join(parts.get(name, bytes(length)) for name in names)).view(len(names), length)


def parts(tensor: Tensor, names: Sequence[str]) -> dict[str, bytes]:
    """The inverse of `rows`; a row of zeros is left out.

    Raises:
        ProtocolError: there are not as many rows as names.
    """
    if tensor.dim() != 2 or len(tensor) != len(names):
        raise ProtocolError(f"{len(tensor)} rows for {len(names)} clients")
    return {name: from_tensor(row) for name, row in zip(names, tensor, strict=True) if bool(row.any())}
