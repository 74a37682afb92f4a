"""L2 norms and finiteness checks."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def l2_norm(tensors: Iterable[Tensor]) -> float:
    """√Σ x² over all elements of all `tensors`; 0 for none."""
    return float(norm_on_device(tensors))


def norm_on_device(tensors: Iterable[Tensor]) -> Tensor:
    """`l2_norm` as a tensor () on the device of `tensors`, so that nobody waits for the device yet.

    Each tensor is made contiguous first: otherwise the order of additions, and so the last bits, would depend on
    whether a tensor comes from a model (channels last) or from a file.
    """
    dense = [tensor.contiguous() for tensor in tensors]
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(dense))) if dense else torch.zeros(())


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no tensor contains NaN or infinity.

    A finite norm proves this in one pass, without a copy and with one transfer from the device. If a norm is not
    finite, which large finite numbers can also cause, every element is checked.
    """
    by_device: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        if tensor.is_floating_point():
            by_device.setdefault(tensor.device, []).append(tensor)
    return all(
        bool(torch.stack([norm.float() for norm in torch._foreach_norm(own)]).isfinite().all())
        or all(bool(tensor.isfinite().all()) for tensor in own)
        for own in by_device.values()
    )
