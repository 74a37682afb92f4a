"""A table of images and texts: CSV or Parquet with the columns path or text, or both, and label; optionally client,
group, split."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedlens.core.labels import UNLABELLED
from fedlens.core.words import count
from fedlens.data.base import Source, sources
from fedlens.data.columns import Column, read_columns
from fedlens.data.labels import (
    FRACTION,
    NO_LABEL,
    SEVERAL,
    class_notes,
    label_faults,
    label_texts,
    normalized,
    spelling_notes,
)
from fedlens.data.missing_files import PIXELS, are_pixels, is_file
from fedlens.data.missing_files import way_out as way_to_files
from fedlens.data.split_names import split_word
from fedlens.data.summary import read_as, rows_text, splits_text
from fedlens.data.tables import Table
from fedlens.data.texts import check_lengths, joined, normalized_text
from fedlens.data.tree import natural, printable
from fedlens.data.types import ImageTable
from fedlens.errors import DataError

_LABEL_WAYS_OUT = {
    NO_LABEL: "Remove the rows, or give them a label",
    SEVERAL: "Keep one label in a row, or remove the rows",
    FRACTION: "Correct them, or name the column of the classes: data.columns.label",
}


@sources.register("manifest", summary="a CSV or Parquet table of path and label, optionally text, client, group, split")
@dataclass(frozen=True)
class Manifest(Source):
    """Columns: path (relative to the manifest's folder, or absolute), label (name or number), text ("" = none), client
    ("" = none), group (rows of one patient or module; "" = one of its own), split (train, val or test); others are
    ignored. `columns` maps them to other names in the table. A file is one image: identical rows for it count once, and
    different texts of it are joined. With texts, a row may have no path, and the table no column of paths; and a
    training row with both may have no label. Class names are the distinct labels in natural order."""

    path: Annotated[Path, Field(description="the .csv or .parquet file; image paths in it are relative to its folder")]
    columns: Annotated[
        Mapping[Column, Annotated[str, Field(min_length=1, coerce_numbers_to_str=True)]],
        Field(description="names of the table's columns: columns.path, columns.label, …"),
    ] = field(default_factory=dict)

    reads: ClassVar[str] = "a .csv, .tsv or .parquet manifest"

    @classmethod
    def claims(cls, path: Path) -> bool:
        return path.is_file() and path.suffix.lower() in (".csv", ".tsv", ".parquet")

    def load(self) -> ImageTable:
        """Read the table and check that its files exist.

        Raises:
            DataError: the table cannot be read, lacks a column, is empty, or has rows with a missing file, an unknown
            split, several labels, a text that is too long, or neither image nor text, or no label in a table without
            texts; rows are given as line numbers in CSV, or counted from 0 in Parquet.
        """
        table, notes = read_columns(self.path.expanduser(), self.columns)
        folder = table.file.parent
        labels = table.columns["label"]
        _read_labels(table)
        if owners := table.columns.get("client"):
            table.columns["client"] = [normalized(name) for name in owners]
        _read_splits(table)
        _read_texts(table)
        _check_paths(table, folder)
        notes += spelling_notes(labels)
        table, merged = _one_row_a_file(table, folder)
        check_lengths(table)
        table, left_out = _of_use(table)
        notes += (*merged, *left_out)
        return _image_table(table, folder, notes)


def _image_table(table: Table, folder: Path, notes: tuple[str, ...]) -> ImageTable:
    columns = table.columns
    names = tuple(sorted(set(columns["label"]) - {""}, key=natural))
    label_of = {"": UNLABELLED} | {name: label for label, name in enumerate(names)}
    groups, texts = columns.get("group"), columns.get("text")
    read = ImageTable(
        images=[folder / name if name else None for name in columns["path"]],
        labels=np.array([label_of[label] for label in columns["label"]], np.int64),
        class_names=names,
        split=_array(columns.get("split")),
        clients=_array(columns.get("client")),
        groups=_array(groups and [group or f"(row {row})" for row, group in enumerate(groups)]),
        texts=texts if texts and any(texts) else None,
        channels=3 if any(columns["path"]) else 1,
    )
    return replace(read, notes=(_summary(read, table), *notes, *class_notes(names)))


def _summary(read: ImageTable, table: Table) -> str:
    """One line that describes how the table was read."""
    clients, splits = (table.columns.get(name, []) for name in ("client", "split"))
    what = rows_text(read.has_image, read.has_text, int((read.labels == UNLABELLED).sum()))
    return read_as(printable(table.file), f"a table of {what}", read.class_names, clients, splits_text(splits))


def _array(values: list[str] | None) -> NDArray[np.str_] | None:
    return None if values is None else np.array(values, np.str_)


def _read_labels(table: Table) -> None:
    """Labels as names; in a table with texts, "" where a row has none."""
    labels = table.columns["label"] = label_texts(table.columns["label"])
    for problem, rows in label_faults(labels).items():
        if problem != NO_LABEL or "text" not in table.columns:
            raise table.refusal("label", rows, problem, _LABEL_WAYS_OUT.get(problem, ""))
        for row in rows:
            labels[row] = ""


def _of_use(table: Table) -> tuple[Table, tuple[str, ...]]:
    """The table without rows that have no label, and no other use: they lack image or text, or are not for training."""
    columns = table.columns
    if "" not in columns["label"]:
        return table, ()
    splits = columns.get("split", ["train"] * len(table))
    told = zip(columns["label"], columns["path"], columns["text"], splits, strict=True)
    kept = [row for row, (label, name, text, split) in enumerate(told) if label or (name and text and split == "train")]
    if len(kept) == len(table):
        return table, ()
    gone = count(len(table) - len(kept), "row")
    return table.only(kept), (f"left out {gone} without a label: image or text is missing, or the split is not train",)


def _read_splits(table: Table) -> None:
    """Replace synonyms of train, val and test, in any case."""
    if given := table.columns.get("split"):
        read = [split_word(name) or "" for name in given]
        if bad := [row for row, split in enumerate(read) if not split]:
            way_out = "Write one of them in every row, or remove the column"
            raise table.refusal("split", bad, "the split is not train, val or test", way_out)
        table.columns["split"] = list(read)


def _read_texts(table: Table) -> None:
    """Give a table with texts its column of paths, "" where a row has no image."""
    if given := table.columns.get("text"):
        texts = table.columns["text"] = list(map(normalized_text, given))
        paths = table.columns.setdefault("path", [""] * len(table))
        if bad := [row for row, (name, text) in enumerate(zip(paths, texts, strict=True)) if not name and not text]:
            way_out = "Give each row a path, a text, or both, or remove it"
            raise table.refusal(None, bad, "neither an image nor a text", way_out)


def _check_paths(table: Table, folder: Path) -> None:
    paths = table.columns["path"]
    if are_pixels(paths):
        raise DataError(f"{table.file}: {table.place(0)}: {PIXELS}")
    optional = "text" in table.columns
    if bad := [row for row, name in enumerate(paths) if not is_file(folder, name) and (name or not optional)]:
        raise table.refusal("path", bad, "no such file", way_to_files(folder, paths[bad[0]]))


def _one_row_a_file(table: Table, folder: Path) -> tuple[Table, tuple[str, ...]]:
    """Keep one of several rows for a file, with all of their texts.

    Raises:
        DataError: rows for one file differ in more than the text.
    """
    rows_of = _rows_by_file(table, folder)
    if len(rows_of) == len(table):
        return table, ()
    for rows in rows_of:
        _refuse_contradiction(table, rows)
    merged = table.only([rows[0] for rows in rows_of])
    note = f"{table.file.name}: {len(table) - len(rows_of):,} rows name a file that is named before: merged"
    if texts := table.columns.get("text"):
        of_file = [[texts[row] for row in rows] for rows in rows_of]
        merged.columns["text"] = list(map(joined, of_file))
        several = sum(len({*those} - {""}) > 1 for those in of_file)
        note += f"; {count(several, 'file')} with several texts: joined" * bool(several)
    return merged, (note,)


def _rows_by_file(table: Table, folder: Path) -> list[list[int]]:
    """The rows of each file in the order of the table; a row without a file is by itself."""
    real = cache(os.path.realpath)  # cached per folder: resolving makes a system call for every part of a path
    rows_of: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, name in enumerate(table.columns["path"]):
        place, file = os.path.split(os.path.normpath(folder / name))
        rows_of[(real(place), file) if name else ("", str(row))].append(row)
    return list(rows_of.values())


def _refuse_contradiction(table: Table, rows: Sequence[int]) -> None:
    said: Literal["label", "client", "group", "split"]
    for said in ("label", "split", "client", "group"):
        values = table.columns.get(said)
        other = next((row for row in rows if values and values[row] != values[rows[0]]), None)
        if values and other is not None:
            raise DataError(
                f"{table.file}: {table.columns['path'][rows[0]]!r} has {said} {values[rows[0]]!r} in "
                f"{table.place(rows[0])} and {values[other]!r} in {table.place(other)}; keep one of the rows"
            )
