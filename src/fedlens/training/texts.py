"""Texts as the model takes them: read once, then kept in the cache beside decoded images and features."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from fedlens.core.files import mark_used, write_atomic
from fedlens.data.types import FederatedData
from fedlens.errors import DataError
from fedlens.models.text_readers import Progress, TextReader

NAME = "texts"
"""Name of the one tensor in a file of the cache."""


def read_texts(data: FederatedData, reader: TextReader, cache_dir: Path, progress: Progress) -> FederatedData:
    """`data` with `text_inputs`: what `reader` gives for each row's text, for "" where a row has none. From a file in
    `cache_dir` if they were read before. The data's key then counts the texts, too.

    Raises:
        DataError: the data has no texts, or the folder cannot be written.
    """
    if (texts := data.texts) is None:
        raise DataError(
            "model.name: this model takes texts beside images, and the data has none; give the table a column `text`, "
            "let a dual encoder learn from names of classes alone (model.learns=labels), or choose a model for images "
            "alone"
        )
    key = texts_key(texts, reader)
    file, data = cache_dir / f"texts-{key}.safetensors", replace(data, cache_key=f"{data.cache_key}-{key}")
    if file.exists():
        mark_used(file)
        return replace(data, text_inputs=load_file(file)[NAME])
    found = read_each_once(texts, reader, progress)
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        write_atomic(file, save({NAME: found}))
    except OSError as error:
        raise DataError(f"{file}: texts cannot be stored ({error.strerror}); see data.cache_dir") from error
    return replace(data, text_inputs=found)


def read_each_once(texts: Sequence[str], reader: TextReader, progress: Progress) -> Tensor:
    """(N, …). Equal texts are read once."""
    different = sorted(set(texts))
    place = {text: number for number, text in enumerate(different)}
    return reader.read(different, progress)[torch.tensor([place[text] for text in texts], dtype=torch.int64)]


def texts_key(texts: Sequence[str], reader: TextReader) -> str:
    """32 hex digits: a digest of the texts, their order and the reader."""
    digest = hashlib.blake2b(reader.key.encode(), digest_size=16)
    for text in texts:
        digest.update(f"\0{text}".encode(errors="surrogateescape"))
    return digest.hexdigest()
