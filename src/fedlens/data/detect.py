"""Which source reads what `data.path` holds: the meaning of `data.source: auto`."""

from __future__ import annotations

from pathlib import Path

from fedlens.data.folders import SPLITS, holds_images, sub_folders
from fedlens.errors import DataError

HUGGING_FACE_FILES = ("dataset_dict.json", "dataset_info.json")
"""What `save_to_disk` of the `datasets` library leaves in a folder."""


def detect(path: Path | None) -> str:
    """The name of the source that fits `path`; the sample when there is none.

    Raises:
        DataError: `path` does not exist, or holds nothing that a source reads; the message says what was looked for.
    """
    if path is None:
        return "sample"
    path = path.expanduser()
    if not path.exists():
        raise DataError(
            f"data.path: {path} does not exist (for a data set of the Hugging Face hub, set data.source to huggingface)"
        )
    if path.is_file():
        if path.suffix.lower() in (".csv", ".parquet"):
            return "manifest"
        raise DataError(f"data.path: {path} is neither a folder nor a .csv or .parquet manifest")
    return _detect_folder(path)


def _detect_folder(path: Path) -> str:
    if any((path / name).exists() for name in HUGGING_FACE_FILES):
        return "huggingface"
    folders = sub_folders(path)
    names = {folder.name for folder in folders}
    if "train" in names and names <= set(SPLITS):
        return "imagefolder"
    if any(map(holds_images, folders)):
        return "imagefolder"
    if any(holds_images(inner) for folder in folders for inner in sub_folders(folder)):
        return "clients"
    raise DataError(
        f"data.path: no source fits {path}; looked for <class>/<image>, train/<class>/<image>, "
        "<client>/<class>/<image>, a data set saved by Hugging Face datasets, or a .csv or .parquet manifest"
    )
