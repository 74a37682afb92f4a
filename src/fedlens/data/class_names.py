"""Class names of data sets from Python, each of which may number its classes differently."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset, Dataset

from fedlens.data.labels import class_notes, normalized
from fedlens.errors import DataError

Names = tuple[str, ...]


@dataclass(frozen=True)
class Numbering:
    """names: of all classes, by label; None if no data set has names. numbers: for each data set, a map from its labels
    to labels in `names`; None if they are equal."""

    names: Names | None
    numbers: tuple[NDArray[np.int64] | None, ...]
    notes: tuple[str, ...] = ()


def pieces(dataset: Dataset[Any]) -> Iterator[Dataset[Any]]:
    """The data sets inside a ConcatDataset, or the data set itself: each has its own class names."""
    if isinstance(dataset, ConcatDataset):
        for inner in dataset.datasets:
            yield from pieces(inner)
    else:
        yield dataset


def own_names(dataset: Any) -> Names | None:
    """`dataset.classes`, or those of a `Subset`'s data set; None if there are none.

    Raises:
        DataError: it is a subset of a ConcatDataset whose data sets number their classes differently.
    """
    known = getattr(dataset, "classes", None)
    if isinstance(known, Sequence) and not isinstance(known, str):
        return tuple(normalized(str(name)) for name in known)
    if isinstance(dataset, ConcatDataset):
        found = {own_names(inner) for inner in dataset.datasets}
        if len(found) > 1:
            raise DataError(
                "a part of joined data sets (ConcatDataset) that number their classes differently: take the parts "
                "first and join them afterwards"
            )
        return found.pop()
    inner = getattr(dataset, "dataset", None)
    return None if inner is None else own_names(inner)


def numbering(known: Sequence[Names | None], given: Sequence[str] | None) -> Numbering:
    """A common numbering for data sets with the class names `known`, matched by name.

    `given` names the classes by label. If it contains the data sets' own names, labels follow its order; if not, and
    all data sets agree, it renames their classes.

    Raises:
        DataError: a data set has no names while the others disagree; or `given` lacks some of their names.
    """
    lists = list(dict.fromkeys(names for names in known if names is not None))
    asked = None if given is None else tuple(normalized(str(name)) for name in given)
    if not lists or (asked is not None and len(lists) == 1 and not set(lists[0]) <= set(asked)):
        return Numbering(asked, (None,) * len(known))
    order = asked or tuple(dict.fromkeys(name for names in lists for name in names))
    if missing := sorted({name for names in lists for name in names} - set(order)):
        raise DataError(
            f"class_names lacks {', '.join(missing[:5])}: the data sets number their classes differently, and are "
            "matched by name"
        )
    if asked is None and len(lists) > 1 and None in known:
        raise DataError(
            "one of the data sets has no `classes`, and the others number theirs differently: give it `classes`, or "
            "class_names="
        )
    place = {name: label for label, name in enumerate(order)}
    numbers = tuple(None if names is None else np.array([place[name] for name in names], np.int64) for names in known)
    differ = len(lists) > 1 or lists[0] != order[: len(lists[0])]
    notes = ("the data sets number their classes differently: classes are matched by name",) if differ else ()
    return Numbering(order, numbers, (*notes, *class_notes(order)))


def renumbered(labels: Sequence[int], numbers: NDArray[np.int64] | None) -> list[int]:
    """Convert labels of one data set to the common numbering.

    Raises:
        DataError: a label has no name in its data set.
    """
    if numbers is None:
        return list(labels)
    for label in labels:
        if not 0 <= label < len(numbers):
            raise DataError(
                f"label {label} is not one of the {len(numbers)} classes (0 to {len(numbers) - 1}) that have a name"
            )
    return [int(numbers[label]) for label in labels]


def whole(label: Any) -> int:
    """A label as a class number.

    Raises:
        DataError: it is not an integer.
    """
    shape = tuple(getattr(label, "shape", ()))
    if math.prod(shape) != 1:
        raise DataError(
            f"a label of shape {shape}, where a class number is needed; of a label with a 1 for its class (one-hot), "
            "give argmax()"
        )
    value = label.item() if shape else label
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or number != value:
        raise DataError(f"the label {value!r} is not a whole number; give class numbers from 0, and class_names=")
    return number
