"""How large an update is, and whether it is made of numbers."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def l2_norm(tensors: Iterable[Tensor]) -> float:
    """√Σ x² over all elements of all `tensors`; 0 for none.

    Each is brought into its plain order first: the order of additions, and so the last bits, would otherwise
    depend on whether a tensor comes from a model (channels last) or from a file.
    """
    norms = [torch.linalg.vector_norm(tensor.contiguous()) for tensor in tensors]
    return float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """No NaN and no infinity in any of them.

    A finite sum says so in one pass and without a copy, and a device is asked once. Only where a sum is not finite,
    which large numbers can bring about, too, is every element looked at.
    """
    by_device: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        by_device.setdefault(tensor.device, []).append(tensor)
    return all(
        bool(torch.stack([tensor.sum(dtype=torch.float32) for tensor in own]).isfinite().all())
        or all(bool(tensor.isfinite().all()) for tensor in own)
        for own in by_device.values()
    )
