"""Divides labelled rows into clients with train, validation and test rows, and a global test set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedlens.core.labels import UNLABELLED, counted
from fedlens.data.base import Scheme, ToPartition
from fedlens.data.labels import NO_LABEL, check_held_out
from fedlens.data.partition.dirichlet import Dirichlet
from fedlens.data.partition.natural import Natural
from fedlens.data.splits import client_splits, global_test, note_of_groups, overlapping_splits
from fedlens.data.types import ClientRows, DataReport, ImageTable, Rows, distinct
from fedlens.errors import DataError


@dataclass(frozen=True)
class Columns:
    """The data of each row besides its image (see `ImageTable`)."""

    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    split: NDArray[np.str_] | None = None
    clients: NDArray[np.str_] | None = None
    groups: NDArray[np.str_] | None = None

    @classmethod
    def of(cls, table: ImageTable, kept: Rows) -> Columns:
        """The columns of the rows `kept` of `table`."""
        taken = (None if column is None else column[kept] for column in (table.split, table.clients, table.groups))
        return cls(table.labels[kept], table.class_names, *taken)


@dataclass(frozen=True)
class DivisionPlan:
    """How to divide. `scheme` None: the data's own clients, else dirichlet with alpha 0.5. `clients`: their number, for
    schemes that create clients. `validation`, `client_test`: shares of a client's rows; `test`: share of all rows, used
    if the data has no test split. `partition_seed` None: `seed`."""

    scheme: Scheme | None
    clients: int
    validation: float
    client_test: float
    test: float
    seed: int
    partition_seed: int | None = None


@dataclass(frozen=True)
class Division:
    """Which client holds which rows, and the scheme used; `notes` are lines for the data report."""

    scheme: Scheme
    clients: tuple[ClientRows, ...]
    test: Rows
    notes: tuple[str, ...]


def divide(columns: Columns, plan: DivisionPlan) -> Division:
    """Hold out the global test set, partition the rest, and split every client's rows.

    The data's own split column takes precedence over the fractions: "test" rows are the global test set, "val" rows are
    validation rows of the client that owns them. If the data's own clients are kept, test rows that belong to a client
    are also its own test images, and no others are held out for it.

    Raises:
        DataError: the scheme cannot be applied; no training images or only one class is left; or the data's own test or
        validation split has a class without training images.
    """
    check_held_out(columns.labels, columns.class_names, columns.split)
    notes: list[str] = []
    scheme = plan.scheme or _automatic(columns, notes)
    pool, test, tested = _pool(columns, plan, isinstance(scheme, Natural), notes)
    owned = _deal(columns, scheme, plan, pool, notes)
    own_val = columns.split == "val" if columns.split is not None and (columns.split == "val").any() else None
    own_test = _own_test(columns, test) if isinstance(scheme, Natural) else {}
    split_rows = overlapping_splits if scheme.overlaps else client_splits
    clients = split_rows(
        owned,
        columns.labels,
        columns.groups,
        validation=plan.validation,
        test=0.0 if own_test else plan.client_test,
        seed=plan.seed,
        official_val=own_val,
    )
    dealt = np.concatenate([pool[:0], *owned.values()])
    notes += note_of_groups(columns.labels, np.union1d(dealt, tested), clients)
    clients = tuple(replace(one, test=own_test.get(one.name, one.test)) for one in clients)
    trainable = tuple(client for client in clients if len(client.train))
    if len(trainable) < len(clients):
        gone = [client.name for client in clients if not len(client.train)]
        notes.append(f"left out, for they have no training images: {_some(gone)}")
    notes += check_classes(columns.labels, columns.class_names, trainable)
    return Division(scheme, trainable, test, tuple(notes))


@contextmanager
def findings_told(report: DataReport) -> Iterator[None]:
    """Adds the notes on how the data was read to errors raised inside, because they may explain the error: the first
    note is appended to the message, the others become the error's notes.

    Raises:
        DataError: as inside.
    """
    try:
        yield
    except DataError as error:
        told = DataError(" ".join((str(error), *(f"({note})" for note in report.notes[:1]))))
        for note in replace(report, notes=report.notes[1:]).findings:
            told.add_note(note)
        raise told from error


def _automatic(columns: Columns, notes: list[str]) -> Scheme:
    if columns.clients is not None and (columns.clients != "").any():
        return Natural()
    notes.append("the data names no clients: partitioned by dirichlet, alpha 0.5 (partition.scheme chooses another)")
    return Dirichlet(alpha=0.5)


def _pool(columns: Columns, plan: DivisionPlan, natural: bool, notes: list[str]) -> tuple[Rows, Rows, Rows]:
    """(rows to partition, global test rows, rows without a label of the groups of these)."""
    rows = np.arange(len(columns.labels))
    official = rows[columns.split == "test"] if columns.split is not None else rows[:0]
    rest = np.setdiff1d(rows, official)
    if natural and columns.clients is not None:
        nobodys = rest[columns.clients[rest] == ""]
        if len(nobodys):
            notes.append(f"left out {len(nobodys)} images that belong to no client")
        rest = np.setdiff1d(rest, nobodys)
    if not len(rest):
        raise DataError(
            f"no images to train on: of {len(rows)} images, {len(official)} are in the data's test split"
            + (" and no other belongs to a client." if natural else ".")
        )
    if len(official):
        return rest, official, rest[:0]
    trains = rest[columns.split[rest] != "val"] if columns.split is not None else rest
    left, held = global_test(
        columns.labels[trains], None if columns.groups is None else columns.groups[trains], plan.test, plan.seed
    )
    pool = np.union1d(np.setdiff1d(rest, trains), trains[left])
    return pool, trains[held], np.setdiff1d(rest, np.union1d(pool, trains[held]))


def _own_test(columns: Columns, test: Rows) -> dict[str, Rows]:
    """Client name → its own rows of the data's test split; empty if the test rows belong to no clients."""
    if columns.clients is None or columns.split is None:
        return {}
    own = test[(columns.split[test] == "test") & (columns.clients[test] != "")]
    return {str(name): own[columns.clients[own] == name] for name in np.unique(columns.clients[own])}


def _deal(columns: Columns, scheme: Scheme, plan: DivisionPlan, pool: Rows, notes: list[str]) -> Mapping[str, Rows]:
    labels, unlabelled = columns.labels[pool], columns.labels[pool] == UNLABELLED
    asked = ToPartition(
        np.where(unlabelled, len(columns.class_names), labels),
        (*columns.class_names, *([NO_LABEL] if unlabelled.any() else [])),
        plan.clients,
        plan.seed if plan.partition_seed is None else plan.partition_seed,
        None if columns.clients is None else columns.clients[pool],
    )
    owned = {name: np.sort(pool[part]) for name, part in scheme.assign(asked).items()}
    idle = len(pool) - len(distinct(list(owned.values())))
    if idle:
        notes.append(f"left out {idle} images that the partition scheme gave to no client")
    return owned


def check_classes(
    labels: NDArray[np.int64], class_names: tuple[str, ...], clients: Sequence[ClientRows]
) -> tuple[str, ...]:
    """The note on classes without training images, if there are such classes; `labels`: (N,) of all rows.

    Raises:
        DataError: there are training images of fewer than two classes.
    """
    trained = np.concatenate([client.train for client in clients] or [np.empty(0, np.int64)])
    counts = counted(labels[trained], len(class_names))
    present = np.flatnonzero(counts)
    if len(present) < 2:
        names = ", ".join(class_names[index] for index in present) or "none"
        raise DataError(
            f"training needs images of two classes at least; the {len(clients)} clients have {len(trained)} training "
            f"images, classes: {names}. Give more labelled images, or smaller data.validation, data.client_test and "
            "data.test."
        )
    missing = [name for name, count in zip(class_names, counts, strict=True) if not count]
    if not missing:
        return ()
    what = "this class" if len(missing) == 1 else f"these {len(missing)} classes"
    return (f"no client has a training image of {_some(missing)}: the model cannot learn {what}",)


def _some(names: list[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
