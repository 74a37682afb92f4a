"""Valid labels, and merging the labels of several files, splits or clients into one list of classes.

The same rule applies to tables, Hugging Face data sets and Python data sets: a class is a name, and names are compared
in Unicode's composed form (NFC), without invisible characters. Names that differ only in case, spaces, hyphens or
underscores remain two classes, with a note.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real

import numpy as np
from numpy.typing import NDArray

from fedlens.core import clean
from fedlens.core.labels import UNLABELLED
from fedlens.errors import DataError

MISSING = frozenset({"", "nan", "-nan", "nat", "<na>", "n/a", "#n/a", "null"})
"""Texts, in any case, that programs write for a missing label."""

PERHAPS_MISSING = frozenset({"none", "na", "?", "-", "--", "unlabeled", "unlabelled"})
"""Class names in some data sets (a wafer without a defect), missing labels in others."""

NO_LABEL = "no label"
SEVERAL = "several labels in one row, where one is needed"
FRACTION = "a label that is not a whole number, where all others are numbers"

_SHOWN = 5
_SEPARATORS = "|;"
_WHOLE = re.compile(r"([+-]?\d+)\.0*")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_LIST = re.compile(r"""\[\s*(["'].*["']|.*,.*)\s*\]|\(.*,.*\)|\{.*[,:].*\}""")
"""A list as written by Python, R or JSON."""
_BETWEEN_WORDS = re.compile(r"(?<=[^\W\d_])[\s_-]+(?=\w)")


def beside_unlabelled(
    class_names: Sequence[str], counts: NDArray[np.int64], unlabelled: Sequence[int]
) -> tuple[list[str], NDArray[np.int64]]:
    """Names and counts (clients, classes), with a last column for rows without a label if any client has such rows.
    unlabelled: the number of each client's."""
    if not any(unlabelled):
        return list(class_names), counts
    return [*class_names, NO_LABEL], np.column_stack([counts, unlabelled])


def normalized(name: str) -> str:
    """`name` in the form for comparison and display: one line, without invisible characters, in Unicode's composed form
    (file systems and programs write é as one code point or as two)."""
    return unicodedata.normalize("NFC", clean.name(name))


def label_texts(values: Iterable[object]) -> list[str]:
    """Labels as names: `normalized` and stripped; "" for a missing label.

    If all labels are numbers, 3.0 becomes 3: programs write integers that way if a value of the column is missing.
    Lists, which are not valid labels, become text that `label_faults` recognises.
    """
    texts = [_text(value) for value in values]
    if all(_NUMBER.fullmatch(text) for text in texts if text.casefold() not in MISSING):
        return [_WHOLE.sub(r"\1", text) if _WHOLE.fullmatch(text) else text for text in texts]
    return texts


def _text(value: object) -> str:
    if value is None or (isinstance(value, Real) and math.isnan(value)):
        return ""
    if isinstance(value, list | tuple | set | np.ndarray | Mapping):
        return "|".join(map(str, value)) + "|"
    return normalized(str(value)).strip()


def label_faults(texts: Sequence[str]) -> dict[str, list[int]]:
    """Problem → the rows of `label_texts` that have it; empty if all labels are valid.

    A row has several labels if a part between "|" or ";" is also a label or a part of another label, if all parts
    between commas are also labels, or if it is written as a list. So "T-shirt; top" can be the name of a class.
    """
    faults: dict[str, list[int]] = defaultdict(list)
    numbers = all(_NUMBER.fullmatch(text) for text in texts if text.casefold() not in MISSING)
    several = _several({text for text in texts if text.casefold() not in MISSING})
    for row, text in enumerate(texts):
        if text.casefold() in MISSING:
            faults[NO_LABEL].append(row)
        elif text in several or _LIST.fullmatch(text):
            faults[SEVERAL].append(row)
        elif numbers and not _is_whole(text):
            faults[FRACTION].append(row)
    return dict(faults)


def _several(names: set[str]) -> set[str]:
    """Those of `names` that contain several labels."""
    parts = {name: _parts(name, _SEPARATORS) for name in names if any(sign in name for sign in _SEPARATORS)}
    found_in: dict[str, int] = defaultdict(int)
    for name in names:
        for part in set(parts.get(name, [name])):
            found_in[part] += 1
    several = {name for name, own in parts.items() if name[-1] in _SEPARATORS or any(found_in[p] > 1 for p in own)}
    return several | {name for name in names if "," in name and set(_parts(name, ",")) <= names}


def _parts(name: str, separators: str) -> list[str]:
    return [part.strip() for part in re.split(f"[{re.escape(separators)}]", name) if part.strip()]


def _is_whole(text: str) -> bool:
    return math.isfinite(float(text)) and float(text).is_integer()


def class_notes(names: Iterable[str]) -> tuple[str, ...]:
    """Notes on class names that probably mean the same class, and on those that may mean a missing label."""
    alike: dict[str, list[str]] = defaultdict(list)
    unique = sorted(set(names))
    for name in unique:
        alike[_simplified(name)].append(name)
    notes = [
        f"the classes {' and '.join(map(repr, same))} differ in case, spaces or Unicode form only: "
        "two names of one class? Rename one if so"
        for same in alike.values()
        if len(same) > 1
    ]
    unclear = [name for name in unique if name.casefold() in PERHAPS_MISSING]
    notes += [f"{name!r} is read as a class; remove its images if it means that a label is missing" for name in unclear]
    return tuple(notes)


def _simplified(name: str) -> str:
    return _BETWEEN_WORDS.sub("", unicodedata.normalize("NFKC", name).strip()).casefold()


def spelling_notes(names: Iterable[str]) -> tuple[str, ...]:
    """A note for each class that occurred in more than one Unicode form and was merged."""
    forms: dict[str, set[str]] = defaultdict(set)
    for name in names:
        forms[normalized(name)].add(name)
    return tuple(
        f"the class {name!r} is written in {len(found)} Unicode forms: read as one class"
        for name, found in sorted(forms.items())
        if len(found) > 1
    )


def check_held_out(labels: NDArray[np.int64], class_names: Sequence[str], split: NDArray[np.str_] | None) -> None:
    """Check that the classes of the data's own test and validation images occur in training.

    Raises:
        DataError: a class has no training image.
    """
    if split is None:
        return
    labels, split = labels[labels != UNLABELLED], split[labels != UNLABELLED]
    known = set(labels[split == "train"].tolist())
    for part, what in (("test", "test"), ("val", "validation")):
        extra = sorted(set(labels[split == part].tolist()) - known)
        if extra and known:
            raise DataError(_extra(what, [class_names[label] for label in extra], [class_names[i] for i in known]))


def _extra(what: str, extra: Sequence[str], known: Sequence[str]) -> str:
    simple = {_simplified(name): name for name in known}
    similar = [f"{name!r} is probably {simple[_simplified(name)]!r}" for name in extra if _simplified(name) in simple]
    names = ", ".join(map(repr, extra[:_SHOWN])) + (f" and {len(extra) - _SHOWN} more" if len(extra) > _SHOWN else "")
    return (
        f"the {what} split has images of {names}, and no training image is of "
        f"{'that class' if len(extra) == 1 else 'those classes'}: correct the name, remove the {what} images, or add "
        f"training images{f' ({similar[0]})' if similar else ''}"
    )
