"""L2 norms and finiteness checks."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def l2_norm(tensors: Iterable[Tensor]) -> float:
    """√Σ x² over all elements of all `tensors`; 0 for none.

    Each tensor is made contiguous first: otherwise the order of additions, and so the last bits, would depend on
    whether a tensor comes from a model (channels last) or from a file.
    """
    norms = [torch.linalg.vector_norm(tensor.contiguous()) for tensor in tensors]
    return float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no tensor contains NaN or infinity.

    A finite sum proves this in one pass, without a copy and with one transfer from the device. If the sum is not
    finite, which large finite numbers can also cause, every element is checked.
    """
    by_device: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        by_device.setdefault(tensor.device, []).append(tensor)
    return all(
        bool(torch.stack([tensor.sum(dtype=torch.float32) for tensor in own]).isfinite().all())
        or all(bool(tensor.isfinite().all()) for tensor in own)
        for own in by_device.values()
    )
