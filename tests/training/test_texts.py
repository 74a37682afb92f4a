"""Texts are read once, kept, and counted in the key of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.helpers import tiny_data
from torch import Tensor

from fedlens.data.types import FederatedData
from fedlens.errors import DataError
from fedlens.models.text_readers import TextReader
from fedlens.training.texts import read_texts


class Lengths(TextReader):
    """Reads a text as its length, and counts what it reads."""

    key = "lengths"

    def __init__(self) -> None:
        self.seen: list[str] = []

    def read(self, texts: Sequence[str], progress) -> Tensor:
        self.seen += texts
        return torch.tensor([[len(text)] for text in texts])


def told(*texts: str) -> FederatedData:
    data = tiny_data(clients=1, per_client=1)
    return replace(data, texts=[*texts, *[""] * (len(data.labels) - len(texts))])


def quiet(_done: int, _all: int) -> None: ...


def test_equal_texts_are_read_once_and_rows_keep_theirs(tmp_path: Path) -> None:
    reader = Lengths()
    read = read_texts(told("aaa", "b", "aaa"), reader, tmp_path, quiet)
    assert read.text_inputs is not None
    assert read.text_inputs[:4, 0].tolist() == [3, 1, 3, 0]
    assert sorted(reader.seen) == ["", "aaa", "b"]


def test_a_second_run_reads_nothing(tmp_path: Path) -> None:
    first = read_texts(told("aaa", "b"), Lengths(), tmp_path, quiet)
    again = Lengths()
    second = read_texts(told("aaa", "b"), again, tmp_path, quiet)
    assert again.seen == []
    assert first.text_inputs is not None
    assert second.text_inputs is not None
    assert second.text_inputs.equal(first.text_inputs)
    assert second.cache_key == first.cache_key


def test_other_texts_are_other_data(tmp_path: Path) -> None:
    keys = {read_texts(told(*texts), Lengths(), tmp_path, quiet).cache_key for texts in ("ab", "ba", ["ab"])}
    assert len(keys) == 3
    assert told("a").cache_key not in keys


def test_data_without_texts_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="column `text`"):
        read_texts(tiny_data(), Lengths(), tmp_path, quiet)
