"""Train the tokenizer that ships in the package: byte-level BPE, on text that the project itself holds.

    python tools/build_tokenizer.py

The text is that of the start pages and the manual, in English and Chinese, without code, and product texts of the
sample's generator. Every byte is a token, so a text of any language is read without unknown tokens; words that are rare
in the text above are cut into more tokens.

The same text gives the same file, byte for byte. But the manual changes, and a saved model needs the tokenizer that it
was trained with: a new file needs a new name.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.normalizers import NFC, Lowercase, Sequence
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from fedlens.data.product_texts import product_texts

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "src" / "fedlens" / "models" / "tokenizer.json"
VOCABULARY = 4_096
PADDING = "<pad>"
"""Its id is 0."""

SEEDS, PER_SEED = range(4), 2_000
"""Product texts: of these seeds, so many for each."""

CHINESE = 8
"""How often the Chinese pages are counted: there are few of them."""

_NO_PROSE = re.compile(r"```.*?```|`[^`\n]*`|\]\([^)\n]*\)|<[a-z/!][^>\n]*>|https?://\S+|[|#*_=-]{2,}", re.DOTALL)
"""Code, addresses, tags and rulers in Markdown."""


def corpus(root: Path = ROOT) -> list[str]:
    """The lines of the pages below `root`, and product texts."""
    pages = [root / "README.md", root / "README.zh-CN.md", *sorted((root / "docs").glob("*.md"))]
    texts = []
    for page in pages:
        lines = _NO_PROSE.sub(" ", page.read_text(encoding="utf-8")).splitlines()
        texts += lines * (CHINESE if ".zh-" in page.name else 1)
    labels = np.arange(PER_SEED) % 10
    return texts + [text for seed in SEEDS for text in product_texts(labels, seed)]


def build(texts: Iterable[str], vocabulary: int = VOCABULARY) -> str:
    """The tokenizer as JSON: lower case, NFC, and `vocabulary` tokens at most."""
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = Sequence([NFC(), Lowercase()])
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=True)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[PADDING],
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return str(tokenizer.to_str())


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the tokenizer that ships in the package.")
    parser.add_argument("--out", type=Path, default=TARGET)
    args = parser.parse_args()
    args.out.write_text(build(corpus()), encoding="utf-8")


if __name__ == "__main__":
    main()
