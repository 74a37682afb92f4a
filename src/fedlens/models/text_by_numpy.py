"""The text tower of a dual encoder by NumPy: the features of single texts, without PyTorch, whose import would take
longer than a search. `dual_encoder.TextTower` and `text_transformer` are the networks themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open

from fedlens.core.files import open_regular
from fedlens.models.minilm import SENTENCE_FEATURES, SentenceEncoder
from fedlens.models.numpy_layers import Array, Layers, attention, gelu, normalized
from fedlens.models.tokenizer import open_tokenizer, tokenizer_file

if TYPE_CHECKING:
    from tokenizers import Tokenizer

KINDS = ("weight", "bias")

HEADS = 4
"""Of the attention of a text transformer."""

_TOWER, _NETWORK = "backbone.text.", "network."

_EPSILON = 1e-5
"""That of `torch.nn.LayerNorm`."""


@dataclass(frozen=True)
class TextFeatures:
    """A text tower in eval mode. project: (width, features of the network)."""

    network: TransformerFeatures | SentenceEncoder
    project: Array

    @property
    def width(self) -> int:
        """Of the features."""
        return len(self.project)

    def features_of(self, text: str) -> Array:
        """(width,), of length 1: those that `DualEncoder.features_of` gives, up to rounding."""
        return normalized(self.network.features_of(text) @ self.project.T)


@dataclass(frozen=True)
class TransformerFeatures:
    """A `TextTransformer` in eval mode."""

    layers: Layers

    def features_of(self, text: str) -> Array:
        """(width,): the mean over all tokens."""
        numbers, layers = self._tokenizer.encode(text).ids, self.layers
        tokens = layers.tensors["tokens.weight"][numbers] + layers.tensors["places"][: len(numbers)]
        for block in self._blocks():
            normal = layers.layer_norm(f"{block}attention_norm", tokens)
            queries, keys, values = np.split(layers.linear(f"{block}queries_keys_values", normal), 3, axis=1)
            tokens = tokens + layers.linear(f"{block}attended", attention(queries, keys, values, HEADS))
            hidden = gelu(layers.linear(f"{block}mlp.0", layers.layer_norm(f"{block}mlp_norm", tokens)))
            tokens = tokens + layers.linear(f"{block}mlp.2", hidden)
        return np.asarray(tokens.mean(0), np.float32)

    def is_whole(self, width: int) -> bool:
        """Whether there is what `features_of` uses, in the right shapes, and nothing else. width: of its features."""
        found = {name: values.shape for name, values in self.layers.tensors.items()}
        places = found.get("places", ())
        if len(places) != 2 or not places[0] or width % HEADS:
            return False
        inside = next(iter(found.get("blocks.0.mlp.0.bias", ())), 0)
        linear = {"queries_keys_values": (3 * width, width), "attended": (width, width)}
        linear |= {"mlp.0": (inside, width), "mlp.2": (width, inside)}
        wanted: dict[str, tuple[int, ...]] = {
            "tokens.weight": (self._tokenizer.get_vocab_size(), width),
            "places": (places[0], width),
        }
        for block in self._blocks():
            wanted |= {f"{block}{norm}_norm.{kind}": (width,) for norm in ("attention", "mlp") for kind in KINDS}
            wanted |= {f"{block}{part}.weight": shape for part, shape in linear.items()}
            wanted |= {f"{block}{part}.bias": shape[:1] for part, shape in linear.items()}
        return found == wanted

    def _blocks(self) -> list[str]:
        names = (f"blocks.{number}." for number in count())
        return list(takewhile(lambda block: f"{block}mlp.0.weight" in self.layers.tensors, names))

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return open_tokenizer(tokenizer_file(), len(self.layers.tensors["places"]))


def read_text_tower(weights: Path) -> TextFeatures | None:
    """That of a dual encoder in a safetensors file; None: it has another tower, or cannot be read.

    Raises:
        ModelError: it reads sentences, and the package of that encoder is not installed.
    """
    try:
        with open_regular(weights), safe_open(weights, framework="numpy") as file:
            names = [name for name in file.keys() if name.startswith(_TOWER)]  # noqa: SIM118 - it is no mapping
            tensors = {name.removeprefix(_TOWER): file.get_tensor(name) for name in names}
    except (OSError, SafetensorError, TypeError):  # the last: numbers that NumPy does not have
        return None
    if any(values.dtype != np.float32 for values in tensors.values()):
        return None
    project = tensors.pop("project.weight", None)
    return None if project is None or project.ndim != 2 else _tower(project, tensors)


def _tower(project: Array, tensors: Mapping[str, Array]) -> TextFeatures | None:
    if not tensors:
        return TextFeatures(SentenceEncoder(), project) if project.shape[1] == SENTENCE_FEATURES else None
    network = TransformerFeatures(Layers({name.removeprefix(_NETWORK): one for name, one in tensors.items()}, _EPSILON))
    return TextFeatures(network, project) if network.is_whole(project.shape[1]) else None
