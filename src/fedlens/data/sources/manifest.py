"""A table of images: CSV or Parquet with the columns path and label, and optionally client, group, split."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedlens.data.base import Source, sources
from fedlens.data.tree import natural
from fedlens.data.types import ImageTable
from fedlens.errors import DataError

COLUMNS = ("path", "label", "client", "group", "split")
SPLIT_NAMES = ("train", "val", "test")
SHOWN = 5
"""Rows that an error lists before it only counts."""


@sources.register("manifest", summary="a CSV or Parquet table of path and label, optionally client, group, split")
@dataclass(frozen=True)
class Manifest(Source):
    """Columns: path (relative to the manifest's folder, or absolute), label (name or number), client ("" = nobody's),
    group (rows of one patient or module; "" = one of its own), split (train, val or test); others are left unread.
    Class names are the different labels in natural order."""

    path: Annotated[Path, Field(description="the .csv or .parquet file; image paths in it are relative to its folder")]

    def load(self) -> ImageTable:
        """Read the table and look for its files.

        Raises:
            DataError: the table cannot be read, lacks a column, is empty, or has rows that name a missing file, an
                unknown split or no label; rows are given as lines of a CSV file, or counted from 0 in Parquet.
        """
        file = self.path.expanduser()
        columns = _read_columns(file)
        _check(file, columns["label"], bool, "no label")
        _check(file, columns.get("split", []), SPLIT_NAMES.__contains__, "the split is not train, val or test")
        _check(file, columns["path"], lambda name: bool(name) and (file.parent / name).is_file(), "no such file")
        names = tuple(sorted(set(columns["label"]), key=natural))
        label_of = {name: label for label, name in enumerate(names)}
        groups = columns.get("group")
        return ImageTable(
            images=[file.parent / name for name in columns["path"]],
            labels=np.array([label_of[label] for label in columns["label"]], np.int64),
            class_names=names,
            split=_array(columns.get("split")),
            clients=_array(columns.get("client")),
            groups=_array(groups and [group or f"(row {row})" for row, group in enumerate(groups)]),
        )


def _check(file: Path, values: list[str], valid: Callable[[str], bool], problem: str) -> None:
    """Raise DataError with the first rows whose value is not valid."""
    bad = [(row, value) for row, value in enumerate(values) if not valid(value)]
    if not bad:
        return
    first, unit = (2, "line") if file.suffix.lower() == ".csv" else (0, "row")
    shown = "; ".join(f"{unit} {row + first}: {value!r}" for row, value in bad[:SHOWN])
    more = f"; and {len(bad) - SHOWN:,} more" if len(bad) > SHOWN else ""
    raise DataError(f"{file}: {problem} in {len(bad):,} of {len(values):,} rows: {shown}{more}")


def _array(values: list[str] | None) -> NDArray[np.str_] | None:
    return None if values is None else np.array(values, np.str_)


def _read_columns(file: Path) -> dict[str, list[str]]:
    """The known columns as text.

    Raises:
        DataError: as `Manifest.load`.
    """
    import pyarrow as pa
    from pyarrow import csv, parquet

    try:
        if file.suffix.lower() == ".csv":
            texts = csv.ConvertOptions(column_types=dict.fromkeys(COLUMNS, pa.string()))  # "007" stays as it is
            table = csv.read_csv(file, parse_options=csv.ParseOptions(newlines_in_values=True), convert_options=texts)
        else:
            table = parquet.read_table(file)
    except FileNotFoundError as error:
        raise DataError(f"data.path: {file} does not exist") from error
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file}: cannot be read as a table: {error}") from error
    for name in ("path", "label"):
        if name not in table.column_names:
            near = difflib.get_close_matches(name, [column.strip().lower() for column in table.column_names], n=1)
            hint = f"; rename {near[0]!r}?" if near else ""
            raise DataError(f"{file}: no column {name!r} among {', '.join(table.column_names)}{hint}")
    if table.num_rows == 0:
        raise DataError(f"{file}: the table has no rows")
    known = [name for name in COLUMNS if name in table.column_names]
    return {name: ["" if v is None else str(v).strip() for v in table[name].to_pylist()] for name in known}
