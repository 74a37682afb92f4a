"""A data set from the Hugging Face Hub or in a folder, read with the `datasets` library."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedlens.core.files import mark_used
from fedlens.data.base import Source, sources
from fedlens.data.cache_dir import default_cache_dir
from fedlens.data.labels import class_notes, label_faults, label_texts, normalized
from fedlens.data.split_names import split_word
from fedlens.data.summary import read_as, some, splits_text
from fedlens.data.tree import natural
from fedlens.data.types import ImageTable
from fedlens.errors import DataError

_SAVED = ("dataset_dict.json", "dataset_info.json")
"""Files that `save_to_disk` of the `datasets` library writes."""

_LEFT_OUT = "none"
"""Means that no split is used. In a file, the empty text means the same; on the command line it would be an unset
variable."""


@sources.register("huggingface", summary="a data set of the Hugging Face hub by name, or one saved in a folder")
@dataclass(frozen=True)
class HuggingFace(Source):
    """`dataset` is a name on the Hub; `path` is a folder (from `save_to_disk`, or readable by `load_dataset`) or such a
    name.

    Default columns: the first image column, and the first ClassLabel column or the one called label. Default splits:
    those whose names mean validation and test, in any case; `none` leaves one out. If splits number their classes
    differently, classes are matched by name. The encoded images are written once as files into FedLens' cache folder,
    so decoding and resuming work as for any folder.
    """

    path: Annotated[Path | None, Field(description="folder of a saved data set")] = None
    dataset: Annotated[str | None, Field(description="name on the hub, such as zalando-datasets/fashion_mnist")] = None
    subset: Annotated[str | None, Field(description="configuration of the data set")] = None
    image_column: Annotated[str | None, Field(description="default: the first column of images")] = None
    label_column: Annotated[str | None, Field(description="default: the first column of class labels")] = None
    client_column: Annotated[str | None, Field(description="who owns a row")] = None
    group_column: Annotated[str | None, Field(description="rows that must not straddle a split")] = None
    train_split: Annotated[str, Field(description="name of the training split")] = "train"
    val_split: Annotated[str | None, Field(description="name of the validation split; none leaves it out")] = None
    test_split: Annotated[str | None, Field(description="name of the test split; none leaves it out")] = None

    @classmethod
    def claims(cls, path: Path) -> bool:
        return any((path / name).exists() for name in _SAVED)

    def load(self) -> ImageTable:
        """Download the data set if necessary, and list its images.

        Raises:
            DataError: it cannot be downloaded or read, or a split or column does not exist.
        """
        found = self._open()
        splits = self._choose_splits(found)
        first = next(iter(splits.values()))
        image, label = self._image_column(first.features), self._label_column(first.features)
        for split, part in splits.items():
            _check_columns(split, part.features, image, label)
        labels, class_names, notes = _labels(splits, label)
        return ImageTable(
            images=[file for part in splits.values() for file in _files(part, image)],
            labels=labels,
            class_names=class_names,
            notes=(self._summary(found, splits, class_names), *notes),
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
            if self.claims(Path(name)):
                found = datasets.load_from_disk(name)
            else:
                found = datasets.load_dataset(name, self.subset)
        except (OSError, ValueError, RuntimeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            way_out = (
                "save it again with save_to_disk"
                if Path(name).exists()
                else "check the name and the network, or call save_to_disk on a connected machine and set data.path to "
                "that folder"
            )
            key = "data.dataset" if self.dataset else "data.path"
            raise DataError(
                f"{key}: {name!r} cannot be loaded by Hugging Face datasets ({reason}); {way_out}"
            ) from error
        return found if isinstance(found, Mapping) else {self.train_split: found}

    def _choose_splits(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Those of "train", "val" and "test" that exist → `datasets.Dataset`."""
        renamed = self.train_split == "train" and "train" not in found
        chosen = {"train": (_usual("train", found) if renamed else "") or self.train_split}
        for split, asked in (("val", self.val_split), ("test", self.test_split)):
            name = _usual(split, found) if asked is None else asked
            if name and (name in found or name != _LEFT_OUT):
                chosen[split] = name
        for split, name in chosen.items():
            if name not in found:
                raise DataError(
                    f"data.{split}_split: no split {name!r}; the data set has {', '.join(found)}; name one: "
                    f"data.{split}_split={next(iter(found), 'NAME')}"
                )
        return {split: found[name] for split, name in chosen.items()}

    def _summary(self, found: Mapping[str, Any], splits: Mapping[str, Any], names: tuple[str, ...]) -> str:
        """One line that describes how the data set was read."""
        used = {id(part) for part in splits.values()}
        unread = [name for name, part in found.items() if id(part) not in used]
        held_out = f"{splits_text(splits)}{f' (not read: {some(unread)})' if unread else ''}"
        return read_as(str(self.dataset or self.path), "a Hugging Face data set", names, held_out=held_out)

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
    """A column of all splits as text; None if it is not requested."""
    if column is None:
        return None
    values = [v for part in splits.values() for v in part[_existing(key, column, part.features)]]
    return np.array(["" if value is None else normalized(str(value)) for value in values], np.str_)


def _usual(split: str, found: Mapping[str, Any]) -> str:
    """The data set's usual name for `split`, or ""."""
    return next((name for name in found if split_word(name) == split), "")


def _check_columns(split: str, features: Mapping[str, Any], image: str, label: str) -> None:
    """Raises DataError: a split lacks columns of the first one, or its image column has no images."""
    there = ", ".join(features)
    way_out = f"rename it, or leave the split out: data.{split}_split={_LEFT_OUT}"
    for column in (image, label):
        if column not in features:
            raise DataError(f"data.{split}_split: no column {column!r} in the {split} split ({there}); {way_out}")
    if (kind := type(features[image]).__name__) != "Image":
        raise DataError(f"data.{split}_split: column {image!r} of the {split} split holds no images but {kind}")


def _labels(splits: Mapping[str, Any], column: str) -> tuple[NDArray[np.int64], tuple[str, ...], tuple[str, ...]]:
    """Labels of all splits, the class names, and notes. Numbers of a ClassLabel column are converted to their names, so
    that splits may number their classes differently; columns of other types contain the names themselves.

    Raises:
        DataError: rows without a label, or with several.
    """
    known = {split: _names_of(part.features[column]) for split, part in splits.items()}
    texts = label_texts(value for split, part in splits.items() for value in _named(part[column], known[split]))
    if faults := label_faults(texts):
        raise DataError(_faulty(splits, column, texts, *next(iter(faults.items()))))
    lists = [names for names in known.values() if names is not None]
    found = set(texts)
    ordered = list(dict.fromkeys(name for names in lists for name in names if names == lists[0] or name in found))
    ordered += sorted(found - set(ordered), key=natural)
    label_of = {name: label for label, name in enumerate(ordered)}
    notes = list(class_notes(found))
    if len(set(known.values())) > 1:
        notes.insert(0, f"the splits differ in the type or the names of column {column!r}: classes are matched by name")
    return np.array([label_of[text] for text in texts], np.int64), tuple(ordered), tuple(notes)


def _names_of(feature: Any) -> tuple[str, ...] | None:
    """The classes of a ClassLabel column; None for a column of another type."""
    return tuple(map(normalized, feature.names)) if type(feature).__name__ == "ClassLabel" else None


def _named(values: Any, names: tuple[str, ...] | None) -> Iterator[object]:
    """Numbers of a ClassLabel column as names, -1 as None; other values unchanged."""
    if names is None:
        return iter(values)
    return (None if value is None or value < 0 else names[value] for value in values)


def _faulty(splits: Mapping[str, Any], column: str, texts: list[str], problem: str, rows: list[int]) -> str:
    """The error for rows with an invalid label."""
    sizes = np.cumsum([len(part) for part in splits.values()])
    at = int(np.searchsorted(sizes, rows[0], side="right"))
    split, row = list(splits)[at], rows[0] - int(sizes[at - 1] if at else 0)
    held_out = f"; leave that split out: data.{split}_split={_LEFT_OUT}" if split != "train" else ""
    return (
        f"data.label_column: {column!r} has {problem} in {len(rows):,} of {len(texts):,} rows, the first in split "
        f"{split}, row {row}: {texts[rows[0]]!r}{held_out or '; remove those rows'}"
    )


def _files(part: Any, column: str) -> list[Path]:
    """The encoded images of one split as files, written if they do not exist yet."""
    folder = default_cache_dir() / "huggingface" / f"{part._fingerprint}-{column}"
    files = [folder / f"{row:07d}" for row in range(len(part))]
    if folder.exists():
        mark_used(folder)
    else:
        temporary = folder.with_name(f".{folder.name}.{uuid4().hex}.tmp")
        try:
            _export(part, column, temporary)
            if not folder.exists():  # another process may have renamed it first
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
        encoded = image[column] or {"bytes": b"", "path": None}  # decoding reports an empty file
        data = encoded["bytes"] if encoded["bytes"] is not None else Path(encoded["path"]).read_bytes()
        (folder / f"{row:07d}").write_bytes(data)
