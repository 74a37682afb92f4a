"""How models read texts: strings become the tensor that the text part of a network takes.

A reader has nothing to train, so every text is read once, and what it gives is kept (`training.texts`).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from fedlens.errors import ModelError
from fedlens.models.minilm import MINILM, SENTENCE_FEATURES, SentenceEncoder, minilm_folder
from fedlens.models.tokenizer import PADDING, open_tokenizer, tokenizer_file

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TEXTS_AT_ONCE = 4096
"""Texts between two calls of `progress`."""

SENTENCES_AT_ONCE = 256
"""The same, where a network reads them."""

FEW = 64
"""Sentences that are read without the package sentence_transformers, which takes ten seconds to load."""

Progress = Callable[[int, int], None]
"""(texts done, texts in all)."""


class TextReader(ABC):
    """Reads texts."""

    @property
    @abstractmethod
    def key(self) -> str:
        """Changes when what it gives for a text changes."""

    @abstractmethod
    def read(self, texts: Sequence[str], progress: Progress) -> Tensor:
        """(N, …), a row a text. Whatever stands in a text, it can be read."""

    longer_by: ClassVar[str] = ""
    """Key of the configuration by which it reads more of a text; "" without one."""

    def cut(self, texts: Sequence[str], taken: int = 0) -> list[bool]:
        """Which of `texts` are not read to their end, where `taken` tokens have no place. None of them by default."""
        return [False] * len(texts)


@dataclass(frozen=True)
class TokenReader(TextReader):
    """Reads the first `length` tokens of a text; places behind its end hold `PADDING`."""

    length: int

    def cut(self, texts: Sequence[str], taken: int = 0) -> list[bool]:
        longer = replace(self, length=self.length - taken + 1)  # of a text that is cut, one place more is filled
        return [last != PADDING for last in longer.read(texts, lambda _done, _all: None)[:, -1].tolist()]


@dataclass(frozen=True)
class Tokens(TokenReader):
    """Token numbers int32 (N, `length`) of FedLens' own tokenizer, filled up with `PADDING`; what is longer is cut."""

    longer_by = "model.max_tokens"

    @cached_property
    def _file(self) -> str:
        return tokenizer_file()

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        found = open_tokenizer(self._file, self.length)
        found.enable_padding(length=self.length, pad_id=PADDING)
        return found

    @property
    def key(self) -> str:
        return hashlib.sha256(f"{self.length}, signs are text: {self._file}".encode()).hexdigest()[:32]

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return self._tokenizer.get_vocab_size()

    def read(self, texts: Sequence[str], progress: Progress) -> Tensor:
        tokens = torch.zeros(len(texts), self.length, dtype=torch.int32)
        for first in range(0, len(texts), TEXTS_AT_ONCE):
            found = self._tokenizer.encode_batch_fast(list(texts[first : first + TEXTS_AT_ONCE]))
            tokens[first : first + len(found)] = torch.tensor([one.ids for one in found], dtype=torch.int32)
            progress(first + len(found), len(texts))
        return tokens


@dataclass(frozen=True)
class ClipTokens(TokenReader):
    """Token numbers int32 (N, `length`) of CLIP's tokenizer, filled up with `PADDING`; what is longer is cut before the
    sign for the end. The tokenizer comes with the package open_clip, extra `fedlens[clip]`."""

    @property
    def key(self) -> str:
        """As `TextReader.key`. How texts are cleaned is code of both packages.

        Raises:
            ModelError: the package is not installed.
        """
        open_clip()
        return f"open_clip {version('open-clip-torch')} ftfy {version('ftfy')} length {self.length}"

    def read(self, texts: Sequence[str], progress: Progress) -> Tensor:
        """As `TextReader.read`.

        Raises:
            ModelError: the package is not installed.
        """
        tokenize = open_clip().tokenize
        tokens = torch.zeros(len(texts), self.length, dtype=torch.int32)
        for first in range(0, len(texts), TEXTS_AT_ONCE):
            found = tokenize(list(texts[first : first + TEXTS_AT_ONCE]), context_length=self.length)
            tokens[first : first + len(found)] = found
            progress(first + len(found), len(texts))
        return tokens


def open_clip() -> Any:
    """The package open_clip.

    Raises:
        ModelError: it is not installed.
    """
    try:
        import open_clip
    except ImportError as error:
        raise ModelError("model.name=open_clip needs the package open_clip: pip install 'fedlens[clip]'") from error
    return open_clip


@dataclass(frozen=True)
class Sentences(TextReader):
    """Features of a frozen sentence encoder, float32 (N, 384) of length 1: all-MiniLM-L6-v2, see `minilm`; English
    above all. NumPy reads few texts, such as the names of classes."""

    @property
    def key(self) -> str:
        """As `TextReader.key`.

        Raises:
            ModelError: the package of the weights is not installed.
        """
        minilm_folder()
        return f"{MINILM} {version(MINILM)}"

    def read(self, texts: Sequence[str], progress: Progress) -> Tensor:
        """As `TextReader.read`.

        Raises:
            ModelError: the package of the weights is not installed.
        """
        return _few(texts, progress) if len(texts) <= FEW else _many(texts, progress)


def _few(texts: Sequence[str], progress: Progress) -> Tensor:
    encoder = SentenceEncoder()
    found = torch.zeros(len(texts), SENTENCE_FEATURES)
    for row, text in enumerate(texts):
        found[row] = torch.from_numpy(encoder.features_of(text))
        progress(row + 1, len(texts))
    return found


def _many(texts: Sequence[str], progress: Progress) -> Tensor:
    folder = str(minilm_folder())
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # of loading, for which nobody waits
    encoder = SentenceTransformer(folder, device="cpu", local_files_only=True)
    found = torch.zeros(len(texts), SENTENCE_FEATURES)
    for first in range(0, len(texts), SENTENCES_AT_ONCE):
        some = list(texts[first : first + SENTENCES_AT_ONCE])
        encoded = encoder.encode(some, normalize_embeddings=True, convert_to_tensor=True, show_progress_bar=False)
        found[first : first + len(some)] = encoded
        progress(first + len(some), len(texts))
    return found
