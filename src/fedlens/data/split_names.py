"""Which names mean training, validation and test: of folders, and of the splits of Hugging Face data sets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fedlens.data.types import Split

SPLIT_WORDS: Mapping[Split, frozenset[str]] = {
    "train": frozenset({"train", "training", "trn", "trainset", "traindata", "trainingset", "训练", "训练集"}),
    "val": frozenset(
        {
            *("val", "valid", "validation", "validate", "valset", "validset", "validationset", "验证", "验证集"),
            *("dev", "devel", "development", "eval", "evaluation"),
        }
    ),
    "test": frozenset({"test", "testing", "tst", "testset", "testdata", "holdout", "测试", "测试集"}),
}
"""Split → the words that stand for it, in lower case."""

_SPLIT_OF: Mapping[str, Split] = {word: split for split, words in SPLIT_WORDS.items() for word in words}
_TOKENS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\da-zA-Z_]+")


@dataclass(frozen=True)
class SplitName:
    """A name with one split word in it. `rest`: its other words, without numbers: ("seg",) of seg_train."""

    split: Split
    rest: tuple[str, ...]


def split_word(name: str) -> Split | None:
    """The split that `name` by itself means, whatever its case; None where it is no split word."""
    return _SPLIT_OF.get(name.strip().casefold())


def split_name(name: str) -> SplitName | None:
    """The split in a name such as Training, 01_train, seg_test, train2017 or TestSet; None where there is not one."""
    if split := split_word(name):
        return SplitName(split, ())
    words = [word.casefold() for word in _TOKENS.findall(name)]
    found = [word for word in words if word in _SPLIT_OF]
    if len(found) != 1:
        return None
    return SplitName(_SPLIT_OF[found[0]], tuple(word for word in words if word != found[0] and not word.isdecimal()))


def as_splits(names: Iterable[str]) -> dict[str, Split] | None:
    """Name → split where all of `names` are names of splits that differ in the split word alone, else None."""
    read = {name: split_name(name) for name in names}
    known = {name: found for name, found in read.items() if found is not None}
    if not known or len(known) < len(read) or len({found.rest for found in known.values()}) > 1:
        return None
    return {name: found.split for name, found in known.items()}
