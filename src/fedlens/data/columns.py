"""Finds the columns of a table by their meaning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from fedlens.data.missing_files import PIXELS, is_pixel_column
from fedlens.data.split_names import split_word
from fedlens.data.tables import Table, read_table
from fedlens.data.tree import is_image
from fedlens.errors import DataError

Column = Literal["path", "label", "client", "group", "split", "text"]

NEAR: Mapping[Column, tuple[str, ...]] = {
    "path": (
        *("filepath", "filename", "file", "imagepath", "image", "img", "imagefile", "imagename", "imageid", "imgpath"),
        *("fname", "name", "src", "uri", "id"),
    ),
    "label": (
        *("target", "class", "classname", "classlabel", "category", "y", "labels", "diagnosis", "dx", "species", "tag"),
        *("annotation", "groundtruth", "gt", "finding", "findinglabels"),
    ),
    "client": (
        *("clientid", "clientname", "site", "siteid", "hospital", "institution", "center", "centre", "owner", "user"),
        *("userid", "clinic", "node", "silo"),
    ),
    "group": (
        *("groupid", "patient", "patientid", "subject", "subjectid", "case", "caseid", "lesionid", "studyid", "scene"),
        "sequence",
    ),
    "split": (
        *("subset", "set", "fold", "partition", "phase", "usage", "mode", "dataset", "stage", "istest", "istrain"),
        *("isval", "isvalid", "isvalidation", "istraining", "test", "holdout"),
    ),
    "text": (
        *("texts", "caption", "captions", "description", "report", "reporttext", "sentence", "sentences", "title"),
        *("comment", "note", "notes", "findings", "impression", "transcript", "abstract", "body", "message"),
    ),
}
"""Other usual names of these columns, without case, spaces and signs; the most specific first."""

_HOLDS: Mapping[Column, str] = {
    "split": "names the splits",
    "client": "names the clients",
    "group": "names rows that belong together",
    "text": "holds a text of each row",
    "path": "names image files",
}

_LONGEST_NAME, _MOST_WORDS = 40, 4
"""Characters and words of a column's name that is shown. A longer one is probably the text of a table without a
header."""


def read_columns(file: Path, given: Mapping[Column, str]) -> tuple[Table, tuple[str, ...]]:
    """The table in `file` with those of the six columns that it has, under their standard names, and notes on others.

    It has labels, and paths or texts or both.

    given  column → its name in the table, if it differs from the standard name (in any case)

    Raises:
        DataError: as `read_table`; a required or given column is missing, or two have the same name.
    """
    table = read_table(file)
    found: dict[Column, str] = {}
    for column in get_args(Column):
        names = _named(table, given.get(column), column)
        if len(names) > 1:
            raise DataError(f"{file}: {len(names)} columns are called {names[0]!r}; rename all but one, or remove them")
        if names:
            found[column] = names[0]
        elif column in given:
            raise DataError(f"data.columns.{column}: {file} has no column {given[column]!r} among {_some(table.names)}")
    if missing := [column for column in _needed(table, found) if column not in found]:
        raise DataError(f"{file}: {_missing(table, missing, found)}")
    notes: tuple[str | None, ...] = ()
    if "split" not in found and (name := _told_by_values(table, found)):
        found["split"] = name
        notes = (f"the column {name!r} is read as the splits, which its values name",)
    unread: tuple[Column, ...] = ("path", "split", "client", "group", "text")
    notes += tuple(_unread(table, column, found) for column in unread if column not in found)
    kept: dict[str, list[str]] = {column: table.columns[name] for column, name in found.items()}
    return replace(table, columns=kept), tuple(filter(None, notes))


def _named(table: Table, given: str | None, column: Column) -> list[str]:
    """The table's columns of that name; if none matches exactly, those of `column` in any case."""
    if given is not None:
        return [name for name in table.names if name == given.strip()]
    exact: list[str] = [name for name in table.names if name == column]
    return exact or [name for name in table.names if name.casefold() == column]


def _needed(table: Table, found: Mapping[Column, str]) -> tuple[Column, ...]:
    """The columns that the table has to have. Texts need no paths; but where a column of another name holds the names
    of image files, reading texts alone would lose the images."""
    near = _near(table, "path", found)
    if "text" not in found or (near is not None and any(map(is_image, table.columns[near]))):
        return ("path", "label")
    return ("label",)


def _missing(table: Table, missing: list[Column], found: Mapping[Column, str]) -> str:
    what = " and ".join(f"no column {column!r}" for column in missing)
    if "path" in missing and any(map(is_pixel_column, table.names)):
        return f"{what} among {_some(table.names)}: {PIXELS}"
    if missing == ["label"] and _is_one_hot(table, found):
        return f"{what} among {_some(table.names)}, which hold 0 and 1: write the class names into one column, label"
    near = {column: name for column in missing if (name := _near(table, column, found))}
    if not near:
        keys = " ".join(f"data.columns.{column}=NAME" for column in missing)
        if "path" in missing and (name := _near(table, "text", found)):
            keys += f"; a table of texts alone: data.columns.text={_quoted(name)}"
        return f"{what} among {_some(table.names)}; the first line has to name the columns; other names: {keys}"
    way_out = " ".join(f"data.columns.{column}={_quoted(name)}" for column, name in near.items())
    return f"{what} among {_some(table.names)}; name {'it' if len(missing) == 1 else 'them'}: {way_out}"


def _is_one_hot(table: Table, found: Mapping[Column, str]) -> bool:
    """Whether the other columns are a one-hot encoding: one column per class, with a 1 for an image's class."""
    others = [values for name, values in table.columns.items() if name not in found.values()]
    return len(others) > 1 and all({"0", "1", "0.0", "1.0"}.issuperset(values) for values in others)


def _quoted(name: str) -> str:
    return f"'{name}'" if " " in name else name


def _near(table: Table, column: Column, found: Mapping[Column, str]) -> str | None:
    """The most likely column."""
    counts = Counter(table.names)
    plain = {
        "".join(filter(str.isalnum, name.casefold())): name
        for name in table.names
        if counts[name] == 1 and name not in found.values()
    }
    return next((plain[name] for name in (column, *NEAR[column]) if name in plain), None)


def _told_by_values(table: Table, found: Mapping[Column, str]) -> str | None:
    """A column with another name whose values are names of splits, including training."""
    name = _near(table, "split", found)
    if name is None:
        return None
    splits = {split_word(value) for value in table.columns[name]}
    return name if "train" in splits and len(splits) > 1 and None not in splits else None


def _unread(table: Table, column: Column, found: Mapping[Column, str]) -> str | None:
    """A note if an optional column may exist under another name: ignoring a split column would train on test rows."""
    near = _near(table, column, found)
    if near is None:
        return None
    return f"the column {near!r} is not read; if it {_HOLDS[column]}: data.columns.{column}={_quoted(near)}"


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(map(_shown, names[:12])) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _shown(name: str) -> str:
    is_name = len(name) <= _LONGEST_NAME and len(name.split()) <= _MOST_WORDS
    return name if is_name else f"({len(name):,} characters)"
