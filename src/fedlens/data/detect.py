"""Detects the source for the content of `data.path`: implements `data.source: auto`."""

from __future__ import annotations

from pathlib import Path

from fedlens.data.folders import folder_layout
from fedlens.data.tree import printable
from fedlens.errors import DataError

HUGGING_FACE_FILES = ("dataset_dict.json", "dataset_info.json")
"""Files that `save_to_disk` of the `datasets` library writes."""


def detect(path: Path | None) -> str:
    """The name of the source that fits `path`; the sample if `path` is None.

    Raises:
        DataError: `path` does not exist, or no source can read its content; the message says what was searched for.
    """
    if path is None:
        return "sample"
    path = path.expanduser()
    if not path.exists():
        raise DataError(
            f"data.path: {printable(path)} does not exist (for a data set of the Hugging Face hub, set data.source to "
            "huggingface)"
        )
    if path.is_file():
        if path.suffix.lower() in (".csv", ".tsv", ".parquet"):
            return "manifest"
        raise DataError(f"data.path: {printable(path)} is neither a folder nor a .csv, .tsv or .parquet manifest")
    if any((path / name).exists() for name in HUGGING_FACE_FILES):
        return "huggingface"
    return "clients" if folder_layout(path).has_clients else "imagefolder"
