"""Held-out rows: the global test set, and each client's train, validation and test rows.

Three rules take precedence over the fractions. Rows of one group (a patient, a module) stay together, even if several
clients share the group. The last row of a class is never taken from training, so that tested classes are trained. And
rows without a label are never tested: they train, or are left out where their group is held out.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedlens.core.labels import UNLABELLED
from fedlens.core.words import count
from fedlens.data.types import ClientRows, Rows, Split, distinct

Labels = NDArray[np.int64]
Groups = NDArray[np.str_]


def global_test(labels: Labels, groups: Groups | None, fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Hold out about `fraction` of all rows, stratified by class, or as whole groups.

    Returns:
        (rest, test), ascending positions in `labels`. A row whose group is "" is a group by itself. Rows without a
        label are in `rest`, or in neither where their group is in `test`.
    """
    rng = np.random.default_rng([seed, zlib.crc32(b"global test")])
    rows = np.arange(len(labels))
    labelled = _labelled(rows, labels)
    if groups is None:
        test = _stratified(labelled, labels, fraction * len(labelled), rng)
        return np.setdiff1d(rows, test), test
    codes = _codes(groups)
    test = _Whole(labelled, labels, codes).take(fraction * len(labelled), rng)
    return rows[~np.isin(codes, codes[test])], test


def client_splits(
    owned: Mapping[str, Rows],
    labels: Labels,
    groups: Groups | None,
    *,
    validation: float,
    test: float,
    seed: int,
    official_val: NDArray[np.bool_] | None = None,
) -> tuple[ClientRows, ...]:
    """Split each client's rows by the fractions `validation` and `test` of its rows.

    owned         client name → rows into `labels`
    official_val  (N,) rows that the data's own split column assigns to validation; then no others are held out for it

    A client's split depends on its name and its rows, not on the other clients, except where they share a
    group: a shared group keeps the split decided for the earlier client. A client with one row trains on it.
    """
    codes = None if groups is None else _codes(groups)
    decided: dict[int, Split] = {}
    clients = []
    for name, rows in owned.items():
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        val = rows[official_val[rows]] if official_val is not None else rows[:0]
        rest = np.setdiff1d(rows, val)
        labelled, whole = _labelled(rest, labels), len(_labelled(rows, labels))
        wanted: dict[Split, float] = {
            "test": test * whole,
            "val": 0.0 if official_val is not None else validation * whole,
        }
        if codes is None:
            held = _by_class(labelled, labels, wanted, rng)
            train = np.setdiff1d(rest, np.concatenate([held["test"], held["val"]]))
        else:
            held = _by_group(labelled, labels, codes, wanted, decided, rng)
            train = rest[[decided.setdefault(code, "train") == "train" for code in codes[rest].tolist()]]
        clients.append(ClientRows(name, train, np.union1d(_labelled(val, labels), held["val"]), held["test"]))
    return tuple(clients)


def overlapping_splits(
    owned: Mapping[str, Rows],
    labels: Labels,
    groups: Groups | None,
    *,
    validation: float,
    test: float,
    seed: int,
    official_val: NDArray[np.bool_] | None = None,
) -> tuple[ClientRows, ...]:
    """As `client_splits`, where clients hold rows in common: all rows are split once, so the fractions hold for one
    client's rows on average, and a client of few rows may have none to train on."""
    everything = distinct(list(owned.values()))
    (whole,) = client_splits(
        {"": np.sort(everything)},
        labels,
        groups,
        validation=validation,
        test=test,
        seed=seed,
        official_val=official_val,
    )
    chosen = np.full(len(labels), -1)
    parts = (whole.train, whole.val, whole.test)
    for number, part in enumerate(parts):
        chosen[part] = number
    return tuple(
        ClientRows(name, *(rows[chosen[rows] == number] for number in range(len(parts))))
        for name, rows in owned.items()
    )


def note_of_groups(labels: Labels, dealt: Rows, clients: Sequence[ClientRows]) -> tuple[str, ...]:
    """A note if some of the rows `dealt` to `clients` have no label and do not train, for their group is held out."""
    trained = distinct([client.train for client in clients])
    lost = int((labels[dealt] == UNLABELLED).sum() - (labels[trained] == UNLABELLED).sum())
    return (f"left out {count(lost, 'row')} without a label, whose groups are tested",) if lost else ()


def _labelled(rows: Rows, labels: Labels) -> Rows:
    """Those of `rows` that have a label."""
    labelled: Rows = rows[labels[rows] != UNLABELLED]
    return labelled


def _by_class(rows: Rows, labels: Labels, wanted: Mapping[Split, float], rng: np.random.Generator) -> dict[Split, Rows]:
    held = {}
    for split, number in wanted.items():
        held[split] = _stratified(rows, labels, number, rng)
        rows = np.setdiff1d(rows, held[split])
    return held


def _by_group(
    rows: Rows,
    labels: Labels,
    codes: NDArray[np.int64],
    wanted: Mapping[Split, float],
    decided: dict[int, Split],
    rng: np.random.Generator,
) -> dict[Split, Rows]:
    """As `_by_class`, by whole groups; records its decisions in `decided`."""
    held, known = {}, np.array([decided.get(int(code), "") for code in codes[rows]], dtype=str)
    free = _Whole(rows[known == ""], labels, codes, keep=rows[known == "train"])
    for split, number in wanted.items():
        before = rows[known == split]
        held[split] = np.union1d(before, free.take(number - len(before), rng))
        decided.update(dict.fromkeys(codes[held[split]].tolist(), split))
    for code in codes[rows].tolist():
        decided.setdefault(code, "train")
    return held


def _stratified(rows: Rows, labels: Labels, count: float, rng: np.random.Generator) -> Rows:
    """About `count` of `rows`, each class in proportion (largest remainders); each class keeps at least one row."""
    shuffled = rng.permutation(rows)
    ordered = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, starts, sizes = np.unique(labels[ordered], return_index=True, return_counts=True)
    share = count * sizes / max(len(rows), 1)
    quota = np.minimum(np.floor(share + 1e-9).astype(np.int64), sizes - 1)
    missing = min(_round(count), int((sizes - 1).sum())) - int(quota.sum())
    by_remainder = np.lexsort((rng.random(len(sizes)), quota - share))
    takers = by_remainder[quota[by_remainder] < sizes[by_remainder] - 1]
    quota[takers[: max(missing, 0)]] += 1
    taken = [ordered[start : start + number] for start, number in zip(starts, quota, strict=True)]
    return np.sort(np.concatenate([rows[:0], *taken]))


class _Whole:
    """Rows that leave training by whole groups; `keep` are further rows that stay in training."""

    def __init__(self, rows: Rows, labels: Labels, codes: NDArray[np.int64], keep: Rows | None = None) -> None:
        self._labels = labels
        ordered = rows[np.argsort(codes[rows], kind="stable")]
        cuts = np.flatnonzero(np.diff(codes[ordered])) + 1
        self._groups: list[Rows] = np.split(ordered, cuts) if len(rows) else []
        self._left = np.bincount(labels[rows], minlength=int(labels.max(initial=0)) + 1)
        if keep is not None:
            self._left += np.bincount(labels[keep], minlength=len(self._left))

    def take(self, count: float, rng: np.random.Generator) -> Rows:
        """Select whole groups with about `count` rows, in random order: each one that brings the total closer to
        `count`."""
        taken: list[Rows] = []
        total = 0
        for index in rng.permutation(len(self._groups)).tolist():
            group = self._groups[index]
            if total + len(group) / 2 <= count and self._spares(group):
                taken.append(group)
                total += len(group)
                self._left -= np.bincount(self._labels[group], minlength=len(self._left))
        gone = {id(group) for group in taken}
        self._groups = [group for group in self._groups if id(group) not in gone]
        return np.sort(np.concatenate([np.empty(0, np.int64), *taken]))

    def _spares(self, group: Rows) -> bool:
        classes, counts = np.unique(self._labels[group], return_counts=True)
        return bool((self._left[classes] > counts).all())


def _codes(groups: Groups) -> NDArray[np.int64]:
    """A number for each group; each row of group "" gets its own."""
    _, codes = np.unique(groups, return_inverse=True)
    alone = groups == ""
    codes[alone] = len(groups) + np.arange(int(alone.sum()))
    return codes.astype(np.int64)


def _round(count: float) -> int:
    return int(np.floor(count + 0.5))
