"""The tokenizer that comes with FedLens (`tokenizer.json`, made by tools/build_tokenizer.py): byte-level byte-pair
encoding, so there is no unknown token in any language."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PADDING = 0
"""Token number behind the end of a text."""


def tokenizer_file() -> str:
    """The content of `tokenizer.json`."""
    return files("fedlens.models").joinpath("tokenizer.json").read_text(encoding="utf-8")


def open_tokenizer(content: str, length: int) -> Tokenizer:
    """A tokenizer that cuts a text behind `length` tokens. content: as `tokenizer_file` gives it. What looks like the
    sign for padding in a text is text: `PADDING` stands behind the end and nowhere else."""
    from tokenizers import Tokenizer

    found = Tokenizer.from_str(content)
    found.encode_special_tokens = True
    found.enable_truncation(length)
    return found
