"""Layers of a transformer for one text, by NumPy: for few texts, importing PyTorch, or a library that is built on it,
takes longer than everything else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Layers:
    """tensors: name → values, as PyTorch names them; epsilon: that of its layer norms."""

    tensors: Mapping[str, Array]
    epsilon: float

    def linear(self, name: str, inputs: Array) -> Array:
        """(L, in) → (L, out)."""
        return inputs @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def layer_norm(self, name: str, inputs: Array) -> Array:
        """(L, D) → (L, D)."""
        centred = inputs - inputs.mean(1, keepdims=True)
        scaled: Array = centred / np.sqrt(centred.var(1, keepdims=True) + self.epsilon)
        return scaled * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]


def attention(queries: Array, keys: Array, values: Array, heads: int) -> Array:
    """(L, D) each → (L, D)."""
    q, k, v = (one.reshape(len(one), heads, -1).transpose(1, 0, 2) for one in (queries, keys, values))
    scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[2])
    shares = np.exp(scores - scores.max(2, keepdims=True))
    found: Array = shares / shares.sum(2, keepdims=True) @ v
    return found.transpose(1, 0, 2).reshape(queries.shape)


def gelu(values: Array) -> Array:
    """With the error function itself, as `torch.nn.GELU`."""
    from scipy.special import erf  # a tenth of a second, which only this needs

    return np.asarray(values * (1 + erf(values / math.sqrt(2))) / 2, np.float32)


def normalized(features: Array) -> Array:
    """The same direction, of length 1; zeros stay."""
    return np.asarray(features / max(float(np.linalg.norm(features)), 1e-12), np.float32)
