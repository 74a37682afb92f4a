"""The family of compressions: transforms that make updates, and models on their way to clients, smaller."""

from __future__ import annotations

import torch
from torch import Tensor

from fedlens.core.registry import Registry
from fedlens.errors import ProtocolError
from fedlens.transforms.base import UpdateTransform

compressions: Registry[UpdateTransform] = Registry("compression", "fedlens.compression")


def checked(value: Tensor | None, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """`value`, where it has that type and shape.

    Raises:
        ProtocolError: it has not, or there is none.
    """
    if value is None or value.dtype != dtype or tuple(value.shape) != shape:
        raise ProtocolError(f"a compressed update whose {name} is not {dtype} of shape {shape}")
    return value
