"""How large an update is."""

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
