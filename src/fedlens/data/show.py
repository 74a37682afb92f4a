"""Counts of images per client and class, as a table and as figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedlens.core.files import read_json
from fedlens.core.fonts import lettering
from fedlens.core.labels import UNLABELLED, counted
from fedlens.core.words import count
from fedlens.data.labels import NO_LABEL, beside_unlabelled
from fedlens.data.modalities import Kind, kind
from fedlens.data.tree import natural
from fedlens.data.types import ImageTable
from fedlens.errors import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Group
    from rich.table import Table

MOST_CLIENTS, MOST_CLASSES = 100, 60
"""Maximum number of names on the axes; beyond it every second, third, … is written."""

MOST_NUMBERS = 400
"""Maximum number of cells for which a heat map shows numbers."""

NOBODY = "(no client)"

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Holdings:
    """counts: (clients, classes) of rows; test: (classes,) of the global test set, or None; notes: how the data was
    read; kinds: what each client has of images and texts, empty if no row lacks one, or the data has no texts;
    unlabelled: the last class stands for rows without a label."""

    clients: tuple[str, ...]
    class_names: tuple[str, ...]
    counts: Counts
    test: Counts | None = None
    notes: tuple[str, ...] = ()
    kinds: tuple[Kind, ...] = ()
    unlabelled: bool = False

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.class_names) - self.unlabelled

    def commonest(self, counts: Counts) -> str:
        """The name of the class with most of the `counts` (classes,); "–" if they are all 0."""
        labelled = counts[: self.classes]
        return self.class_names[int(labelled.argmax())] if labelled.any() else "–"

    @property
    def unit(self) -> str:
        """The singular of what is counted."""
        return "row" if self.kinds else "image"


def of_table(table: ImageTable) -> Holdings:
    """Count the rows of a table; rows without a client that are not test rows are listed as "(no client)"."""
    test = table.split == "test" if table.split is not None else np.zeros(len(table.labels), bool)
    owners = np.full(len(table.labels), "") if table.clients is None else table.clients
    names = sorted(set(owners[~test].tolist()), key=natural)
    missing = table.labels == UNLABELLED
    classes = (*table.class_names, *([NO_LABEL] if missing.any() else []))
    labels = np.where(missing, len(table.class_names), table.labels)
    counts = [counted(labels[~test & (owners == name)], len(classes)) for name in names]
    return Holdings(
        tuple(name or NOBODY for name in names),
        classes,
        np.array(counts, np.int64).reshape(len(names), len(classes)),
        counted(labels[test], len(classes)) if test.any() else None,
        table.notes,
        _kinds(table, [~test & (owners == name) for name in names]),
        unlabelled=bool(missing.any()),
    )


def _kinds(table: ImageTable, owned: Sequence[NDArray[np.bool_]]) -> tuple[Kind, ...]:
    """The kind of each client; `owned`: for each one (N,), whether it has the row."""
    if table.texts is None or (table.has_image & table.has_text).all():
        return ()
    images, texts = table.has_image, table.has_text
    return tuple(kind(int(images[rows].sum()), int(texts[rows].sum())) for rows in owned)


def of_run(folder: Path) -> Holdings:
    """The counts that a run has saved.

    Raises:
        DataError: there are none that can be read.
    """
    file = folder / "partition.json"
    try:
        held = read_json(file)
        counts = [np.sum(list(splits.values()), axis=0) for splits in held["clients"].values()]
        classes, missing = len(held["class_names"]), held.get("unlabelled", {})
        names, table = beside_unlabelled(
            held["class_names"],
            np.array(counts, np.int64).reshape(len(counts), classes),
            [int(missing.get(name, 0)) for name in held["clients"]],
        )
        more = len(names) - classes
        test = np.array([*held["test"], *[0] * more], np.int64)
        return Holdings(tuple(held["clients"]), tuple(names), table, test, unlabelled=bool(more))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(f"{file} cannot be read ({error}); the run stopped before its data was ready?") from error


def table(held: Holdings, width: int, most_clients: int = 40, most_classes: int = 12) -> Group:
    """One row per client, one column per class. If the class names do not fit into `width` columns, numbers replace
    them and the names are listed below. With many classes: each client's number of classes, and its most frequent
    one."""
    from rich.console import Group
    from rich.text import Text

    names = held.class_names
    whose = "" if held.clients == (NOBODY,) else f" at {count(len(held.clients), 'client')}"
    title = f"{count(int(held.counts.sum()), held.unit)} of {count(held.classes, 'class')}{whose}"
    if len(names) <= most_classes:
        named = _table(held, names, _every_class, most_clients)
        if _width(named) <= width:
            return Group(title, named)
        numbers = [f"({number})" for number in range(1, len(names) + 1)]
        numbered = _table(held, numbers, _every_class, most_clients)
        if _width(numbered) <= width:
            key = (Text(f"{number:>4}  {name}") for number, name in zip(numbers, names, strict=True))
            return Group(title, numbered, *key)
    return Group(title, _table(held, ("classes", "commonest class"), _commonest, most_clients))


def _width(view: Table) -> int:
    """The width of `view` without line breaks in cells."""
    from rich.console import Console

    console = Console(width=100_000)
    return console.measure(view).maximum


def _table(held: Holdings, heads: Sequence[str], cells: Callable[[Counts, Holdings], list[str]], most: int) -> Table:
    from rich import box, markup
    from rich.table import Table

    view = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    view.add_column("client", no_wrap=True)
    for name in (*(["has"] if held.kinds else []), f"{held.unit}s", *heads):
        view.add_column(markup.escape(name), justify="right", overflow="fold")  # nothing is truncated
    kinds: list[list[str]] = [[kind] for kind in held.kinds] or [[] for _ in held.clients]
    none = ["" for _ in held.kinds[:1]]
    rows = list(zip(held.clients, kinds, held.counts, strict=True))
    for name, has, counts in rows[:most]:
        view.add_row(markup.escape(name), *has, *cells(counts, held))
    if len(rows) > most:
        rest = np.sum([counts for *_, counts in rows[most:]], axis=0)
        view.add_row(f"{len(rows) - most} more", *none, *cells(rest, held))
    view.add_section()
    view.add_row("all clients", *none, *cells(held.counts.sum(axis=0), held))
    if held.test is not None:
        view.add_row("test set", *none, *cells(held.test, held))
    return view


def _every_class(counts: Counts, _held: Holdings) -> list[str]:
    return [f"{int(counts.sum()):,}", *(f"{count:,}" if count else "·" for count in counts.tolist())]


def _commonest(counts: Counts, held: Holdings) -> list[str]:
    from rich import markup

    total, labelled = int(counts.sum()), counts[: held.classes]
    share = f" ({labelled.max() / total:.0%})" if labelled.any() else ""
    return [f"{total:,}", str(np.count_nonzero(labelled)), f"{markup.escape(held.commonest(counts))}{share}"]


def partition_figure(counts: Counts, clients: Sequence[str], class_names: Sequence[str]) -> Figure:
    """A heat map, clients down and classes across, with numbers in the cells if there is room.

    counts  (clients, classes)
    """
    from matplotlib.figure import Figure

    width, height = np.clip(len(class_names) * 0.6 + 2.5, 5, 16), np.clip(len(clients) * 0.28 + 1.6, 3, 18)
    figure = Figure(figsize=(float(width), float(height)), layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(counts, aspect="auto", cmap="Blues", vmin=0, interpolation="nearest")
    _ticks(axes.set_yticks, clients, MOST_CLIENTS)
    _ticks(axes.set_xticks, class_names, MOST_CLASSES, rotation=45, ha="right", rotation_mode="anchor")
    axes.set(xlabel="class", ylabel="client")
    figure.colorbar(picture, label="images", fraction=0.05, pad=0.02)
    if counts.size <= MOST_NUMBERS:
        half = counts.max(initial=0) / 2
        for (client, label), count in np.ndenumerate(counts):
            colour = "white" if count > half else "black"
            axes.text(label, client, str(count), ha="center", va="center", color=colour, fontsize=8)
    return figure


def _ticks(put: Any, names: Sequence[str], most: int, **style: Any) -> None:
    """All names, or as many as are legible."""
    at = list(range(0, len(names), -(-len(names) // most) or 1))
    letters = lettering(names)
    shown, fonts = [letters.plain(names[index]) for index in at], list(letters.families)
    put(at, shown, fontsize=8, parse_math=False, fontfamily=fonts, **style)
