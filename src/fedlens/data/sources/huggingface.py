"""A data set of the Hugging Face hub, or one in a folder: through the `datasets` library."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedlens.data.base import Source, sources
from fedlens.data.cache import default_cache_dir
from fedlens.data.detect import HUGGING_FACE_FILES
from fedlens.data.tree import natural
from fedlens.data.types import ImageTable
from fedlens.errors import DataError
from fedlens.files import mark_used

USUAL_NAMES = {"val": ("validation", "valid", "val", "dev"), "test": ("test",)}
"""What hub data sets call their splits."""


@sources.register("huggingface", summary="a data set of the Hugging Face hub by name, or one saved in a folder")
@dataclass(frozen=True)
class HuggingFace(Source):
    """`dataset` is a name on the hub; `path` a folder (of `save_to_disk`, or that `load_dataset` reads) or such a name.

    Columns that are not named: the first image column, the first ClassLabel column or the one called label.
    Splits that are not named: validation, valid, val or dev; test. "" leaves a split out. The encoded images are
    written once as files into FedLens' cache folder, so that decoding and starting again work as for any folder.
    """

    path: Annotated[Path | None, Field(description="folder of a saved data set")] = None
    dataset: Annotated[str | None, Field(description="name on the hub, such as zalando-datasets/fashion_mnist")] = None
    subset: Annotated[str | None, Field(description="configuration of the data set")] = None
    image_column: Annotated[str | None, Field(description="default: the first column of images")] = None
    label_column: Annotated[str | None, Field(description="default: the first column of class labels")] = None
    client_column: Annotated[str | None, Field(description="who owns a row")] = None
    group_column: Annotated[str | None, Field(description="rows that must not straddle a split")] = None
    train_split: Annotated[str, Field(description="name of the training split")] = "train"
    val_split: Annotated[str | None, Field(description='name of the validation split; "": none')] = None
    test_split: Annotated[str | None, Field(description='name of the test split; "": none')] = None

    def load(self) -> ImageTable:
        """Fetch the data set unless it is there, and list its images.

        Raises:
            DataError: it cannot be fetched or read, or a split or a column is not in it.
        """
        splits = self._choose_splits(self._open())
        first = next(iter(splits.values()))
        image = self._image_column(first.features)
        labels, class_names = _labels(splits, self._label_column(first.features))
        return ImageTable(
            images=[file for part in splits.values() for file in _files(part, image)],
            labels=labels,
            class_names=class_names,
            split=np.repeat(list(splits), [len(part) for part in splits.values()]) if len(splits) > 1 else None,
            clients=_texts(splits, "client_column", self.client_column),
            groups=_texts(splits, "group_column", self.group_column),
        )

    def _open(self) -> Mapping[str, Any]:
        """Split name → `datasets.Dataset`."""
        import datasets

        name = self.dataset or (str(self.path.expanduser()) if self.path else None)
        if name is None:
            raise DataError("data.source huggingface needs data.dataset (a name on the hub) or data.path (a folder)")
        try:
            if any((Path(name) / file).exists() for file in HUGGING_FACE_FILES):
                found = datasets.load_from_disk(name)
            else:
                found = datasets.load_dataset(name, self.subset)
        except (OSError, ValueError, RuntimeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DataError(
                f"data.dataset: {name!r} cannot be loaded by Hugging Face datasets ({reason}); check the name and the "
                "network, or call save_to_disk on a connected machine and set data.path to that folder"
            ) from error
        return found if isinstance(found, Mapping) else {self.train_split: found}

    def _choose_splits(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """ "train", "val", "test" → `datasets.Dataset`, those that there are."""
        chosen = {"train": self.train_split}
        for split, asked in (("val", self.val_split), ("test", self.test_split)):
            usual = next((name for name in USUAL_NAMES[split] if name in found), "")
            if name := usual if asked is None else asked:
                chosen[split] = name
        for split, name in chosen.items():
            if name not in found:
                raise DataError(f"data.{split}_split: no split {name!r}; the data set has {', '.join(found)}")
        return {split: found[name] for split, name in chosen.items()}

    def _image_column(self, features: Mapping[str, Any]) -> str:
        kinds = {name: type(feature).__name__ for name, feature in features.items()}
        if self.image_column is None:
            return _first("image", (name for name, kind in kinds.items() if kind == "Image"), features)
        if kinds.get(self.image_column) != "Image":
            kind = kinds.get(self.image_column, "missing")
            raise DataError(f"data.image_column: {self.image_column!r} is not a column of images but {kind}")
        return self.image_column

    def _label_column(self, features: Mapping[str, Any]) -> str:
        if self.label_column is not None:
            return _existing("label_column", self.label_column, features)
        named = [name for name, feature in features.items() if type(feature).__name__ == "ClassLabel"]
        return _first("label", [*named, *({"label"} & set(features))], features)


def _first(what: str, names: Any, features: Mapping[str, Any]) -> str:
    for name in names:
        return str(name)
    raise DataError(f"data.{what}_column: no {what} column found; name it; there are {', '.join(features)}")


def _existing(key: str, name: str, features: Mapping[str, Any]) -> str:
    if name not in features:
        raise DataError(f"data.{key}: no column {name!r}; there are {', '.join(features)}")
    return name


def _texts(splits: Mapping[str, Any], key: str, column: str | None) -> NDArray[np.str_] | None:
    """A column of all splits as text; None when it is not asked for."""
    if column is None:
        return None
    values = [v for part in splits.values() for v in part[_existing(key, column, part.features)]]
    return np.array(["" if value is None else str(value) for value in values], np.str_)


def _labels(splits: Mapping[str, Any], column: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels of all splits and the class names: those of a ClassLabel column, else its different values."""
    values = [value for part in splits.values() for value in part[_existing("label_column", column, part.features)]]
    if any(value is None or value == -1 for value in values):
        raise DataError(
            f'data.label_column: {column!r} has rows without a label; leave that split out: data.test_split: ""'
        )
    feature = next(iter(splits.values())).features[column]
    if type(feature).__name__ == "ClassLabel":
        return np.array(values, np.int64), tuple(feature.names)
    names = tuple(sorted({str(value) for value in values}, key=natural))
    label_of = {name: label for label, name in enumerate(names)}
    return np.array([label_of[str(value)] for value in values], np.int64), names


def _files(part: Any, column: str) -> list[Path]:
    """The encoded images of one split as files, written when they are not there yet."""
    folder = default_cache_dir() / "huggingface" / f"{part._fingerprint}-{column}"
    files = [folder / f"{row:07d}" for row in range(len(part))]
    if folder.exists():
        mark_used(folder)
    else:
        temporary = folder.with_name(f".{folder.name}.{uuid4().hex}.tmp")
        try:
            _export(part, column, temporary)
            if not folder.exists():  # another process may have been quicker
                temporary.rename(folder)
        except OSError as error:
            raise DataError(
                f"cannot write {folder}: {error.strerror}; set FEDLENS_CACHE to a folder with room"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return files


def _export(part: Any, column: str, folder: Path) -> None:
    from datasets import Image

    folder.mkdir(parents=True)
    for row, image in enumerate(part.select_columns([column]).cast_column(column, Image(decode=False))):
        encoded = image[column] or {"bytes": b"", "path": None}  # an empty file is reported when it is decoded
        data = encoded["bytes"] if encoded["bytes"] is not None else Path(encoded["path"]).read_bytes()
        (folder / f"{row:07d}").write_bytes(data)
