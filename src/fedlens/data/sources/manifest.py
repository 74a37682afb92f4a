"""A table of images: CSV or Parquet with the columns path and label, and optionally client, group, split."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

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
from fedlens.data.summary import read_as, splits_text
from fedlens.data.tables import Table
from fedlens.data.tree import natural, printable
from fedlens.data.types import ImageTable
from fedlens.errors import DataError

_LABEL_WAYS_OUT = {
    NO_LABEL: "Remove the rows, or give them a label",
    SEVERAL: "Keep one label in a row, or remove the rows",
    FRACTION: "Correct them, or name the column of the classes: data.columns.label",
}


@sources.register("manifest", summary="a CSV or Parquet table of path and label, optionally client, group, split")
@dataclass(frozen=True)
class Manifest(Source):
    """Columns: path (relative to the manifest's folder, or absolute), label (name or number), client ("" = none), group
    (rows of one patient or module; "" = one of its own), split (train, val or test); others are ignored. `columns` maps
    them to other names in the table. A file is one image: identical rows for it count once. Class names are the
    distinct labels in natural order."""

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
            split, no label or several labels; rows are given as line numbers in CSV, or counted from 0 in Parquet.
        """
        table, notes = read_columns(self.path.expanduser(), self.columns)
        folder = table.file.parent
        labels = table.columns["label"]
        table.columns["label"] = label_texts(labels)
        for problem, rows in label_faults(table.columns["label"]).items():
            raise table.refusal("label", rows, problem, _LABEL_WAYS_OUT.get(problem, ""))
        if owners := table.columns.get("client"):
            table.columns["client"] = [normalized(name) for name in owners]
        _read_splits(table)
        _check_paths(table, folder)
        notes += spelling_notes(labels)
        table, merged = _one_row_a_file(table, folder)
        notes += merged
        return _image_table(table, folder, notes)


def _image_table(table: Table, folder: Path, notes: tuple[str, ...]) -> ImageTable:
    columns = table.columns
    names = tuple(sorted(set(columns["label"]), key=natural))
    label_of = {name: label for label, name in enumerate(names)}
    groups = columns.get("group")
    return ImageTable(
        images=[folder / name for name in columns["path"]],
        labels=np.array([label_of[label] for label in columns["label"]], np.int64),
        class_names=names,
        split=_array(columns.get("split")),
        clients=_array(columns.get("client")),
        groups=_array(groups and [group or f"(row {row})" for row, group in enumerate(groups)]),
        notes=(_summary(table, names), *notes, *class_notes(names)),
    )


def _summary(table: Table, classes: Sequence[str]) -> str:
    """One line that describes how the table was read."""
    clients, splits = (table.columns.get(name, []) for name in ("client", "split"))
    return read_as(
        printable(table.file), f"a table of {count(len(table), 'image')}", classes, clients, splits_text(splits)
    )


def _array(values: list[str] | None) -> NDArray[np.str_] | None:
    return None if values is None else np.array(values, np.str_)


def _read_splits(table: Table) -> None:
    """Replace synonyms of train, val and test, in any case."""
    if given := table.columns.get("split"):
        read = [split_word(name) or "" for name in given]
        if bad := [row for row, split in enumerate(read) if not split]:
            way_out = "Write one of them in every row, or remove the column"
            raise table.refusal("split", bad, "the split is not train, val or test", way_out)
        table.columns["split"] = list(read)


def _check_paths(table: Table, folder: Path) -> None:
    paths = table.columns["path"]
    if are_pixels(paths):
        raise DataError(f"{table.file}: {table.place(0)}: {PIXELS}")
    if bad := [row for row, name in enumerate(paths) if not is_file(folder, name)]:
        raise table.refusal("path", bad, "no such file", way_to_files(folder, paths[bad[0]]))


def _one_row_a_file(table: Table, folder: Path) -> tuple[Table, tuple[str, ...]]:
    """Keep one of several identical rows for a file.

    Raises:
        DataError: rows for one file differ.
    """
    real = cache(os.path.realpath)  # cached per folder: resolving makes a system call for every part of a path
    rows_of: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, name in enumerate(table.columns["path"]):
        place, file = os.path.split(os.path.normpath(folder / name))
        rows_of[real(place), file].append(row)
    if len(rows_of) == len(table):
        return table, ()
    for rows in rows_of.values():
        _refuse_contradiction(table, rows)
    note = f"{table.file.name}: {len(table) - len(rows_of):,} rows name a file that is named before: merged"
    return table.only([rows[0] for rows in rows_of.values()]), (note,)


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
