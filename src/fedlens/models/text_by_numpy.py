"""The text tower of a dual encoder with a text transformer, computed by NumPy: the features of a single text, where
importing PyTorch would take longer than everything else. `text_transformer` is the network itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from fedlens.models.tokenizer import open_tokenizer, tokenizer_file

if TYPE_CHECKING:
    from tokenizers import Tokenizer

HEADS = 4
"""Of the attention."""

_TOWER = "backbone.text."
_EPSILON = 1e-5
"""That of `torch.nn.LayerNorm`."""

Array = NDArray[np.float32]


@dataclass(frozen=True)
class TextTower:
    """In eval mode. tensors: name → values, names as below `backbone.text.`"""

    tensors: Mapping[str, Array]

    @classmethod
    def read(cls, weights: Path) -> TextTower | None:
        """That of a dual encoder in a safetensors file; None if it has another tower, or cannot be read."""
        try:
            with safe_open(weights, framework="numpy") as file:
                names = [name for name in file.keys() if name.startswith(_TOWER)]  # noqa: SIM118 - it is no mapping
                tensors = {name.removeprefix(_TOWER): file.get_tensor(name) for name in names}
        except (OSError, SafetensorError, TypeError):  # the last: numbers that NumPy does not have
            return None
        tower = cls(tensors)
        return tower if tower._is_whole() else None

    @property
    def width(self) -> int:
        """Of its features."""
        return len(self.tensors["project.weight"])

    def features_of(self, text: str) -> Array:
        """(width,), of length 1: those that `DualEncoder.features_of` gives, up to rounding."""
        numbers = self._tokenizer.encode(text).ids
        tokens = self.tensors["network.tokens.weight"][numbers] + self.tensors["network.places"][: len(numbers)]
        for block in self._blocks():
            tokens = tokens + self._attention(block, self._normalized(f"{block}attention_norm", tokens))
            tokens = tokens + self._perceptron(block, self._normalized(f"{block}mlp_norm", tokens))
        found = tokens.mean(0) @ self.tensors["project.weight"].T
        return normalized(found)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return open_tokenizer(tokenizer_file(), len(self.tensors["network.places"]))

    def _blocks(self) -> list[str]:
        names = (f"network.blocks.{number}." for number in count())
        return list(takewhile(lambda block: f"{block}mlp.0.weight" in self.tensors, names))

    def _is_whole(self) -> bool:
        """Whether it has what `features_of` uses, and nothing else."""
        parts = ("attention_norm", "queries_keys_values", "attended", "mlp_norm", "mlp.0", "mlp.2")
        used = [f"{block}{part}.{kind}" for block in self._blocks() for part in parts for kind in ("weight", "bias")]
        names = {"network.tokens.weight", "network.places", "project.weight", *used}
        return names == set(self.tensors) and all(one.dtype == np.float32 for one in self.tensors.values())

    def _linear(self, name: str, inputs: Array) -> Array:
        return inputs @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def _normalized(self, name: str, tokens: Array) -> Array:
        centred = tokens - tokens.mean(1, keepdims=True)
        scaled: Array = centred / np.sqrt(centred.var(1, keepdims=True) + _EPSILON)
        return scaled * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]

    def _attention(self, block: str, tokens: Array) -> Array:
        """(L, D) → (L, D)."""
        heads = self._linear(f"{block}queries_keys_values", tokens).reshape(len(tokens), 3, HEADS, -1)
        queries, keys, values = heads.transpose(1, 2, 0, 3)  # (heads, L, D / heads)
        scores = queries @ keys.transpose(0, 2, 1) / math.sqrt(queries.shape[2])
        shares = np.exp(scores - scores.max(2, keepdims=True))
        found: Array = shares / shares.sum(2, keepdims=True) @ values
        return self._linear(f"{block}attended", found.transpose(1, 0, 2).reshape(tokens.shape))

    def _perceptron(self, block: str, tokens: Array) -> Array:
        return self._linear(f"{block}mlp.2", _gelu(self._linear(f"{block}mlp.0", tokens)))


def normalized(features: Array) -> Array:
    """The same direction, of length 1; zeros stay."""
    return np.asarray(features / max(float(np.linalg.norm(features)), 1e-12), np.float32)


def _gelu(values: Array) -> Array:
    erf = np.vectorize(math.erf, otypes=[np.float32])  # SciPy's takes a fifth of a second to import
    return np.asarray(values * (1 + erf(values / math.sqrt(2))) / 2, np.float32)
