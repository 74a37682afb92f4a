"""Determines the layout of nested folders: the meaning of each level, or why it is ambiguous.

A level is a split, a client, a class, or nothing ("-": a single folder, or a repeated name). Splits are recognised by
their names, clients by theirs (client1, site_a) or because the folders below them have common names; what is left is a
class. If names do not decide, the user must: nothing is guessed, because a wrong guess trains on the test split or with
wrong labels.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from fedlens.data.split_names import as_splits, split_name, split_word
from fedlens.data.types import Split
from fedlens.errors import DataError

Level = Literal["split", "client", "class", "-"]
Names = tuple[str, ...]
"""The names of the folders on the path to images."""

_CLIENT = re.compile(
    r"(client|site|silo|hospital|clinic|cent(er|re)|institution|node|user|shop)([ _-]?\d+|[ _-]?\w|[ _-]\w+)",
    re.IGNORECASE,
)
"""Names that clients have, but not classes."""

_PART_OF_CLASS = re.compile(
    r"((batch|part|fold|session|series|set|day|week|month|year|patient|subject|case|slide|scan|person|video|clip)s?"
    r"([ _-]?\d*|[ _-]\w+)|(19|20)\d\d([ _-]?\d\d){0,2})",
    re.IGNORECASE,
)
"""Names that occur below classes as well as below clients: a day, a patient."""

_VERSION = re.compile(
    r"raw|processed|preprocessed|original|originals|resized|cropped|augmented|augmentation|segmented|images|imgs?|"
    r"pictures|photos|masks?|labels|annotations|color|colour|gr[ae]y|gr[ae]yscale|rgb|thumbnails?|(low|high)res|lr|hr|"
    r"(k?fold|split|cv)[ _-]?\d+",
    re.IGNORECASE,
)
"""Names of versions of the same images and of cross-validation folds: as clients they would share images."""

_DEEPEST = 4
_SHOWN = 5


@dataclass(frozen=True)
class Layout:
    """levels: the meaning of each level of folders, from the top. splits: names of split folders, with their meaning;
    tests: folders at the level of clients that hold the global test set."""

    levels: tuple[Level, ...]
    splits: Mapping[str, Split]
    tests: frozenset[str] = frozenset()

    @property
    def has_clients(self) -> bool:
        return "client" in self.levels

    def place(self, names: Names) -> tuple[Split | None, str, str] | None:
        """(split, client, class) of a folder with images; None if its images are outside of class folders."""
        if len(names) < len(self.levels):
            return None
        at = {level: name for level, name in zip(self.levels, names, strict=False) if level != "-"}
        if at.get("client") in self.tests:
            return "test", "", at["class"]
        return self.splits[at["split"]] if "split" in at else None, at.get("client", ""), at["class"]


def read_layout(folders: Collection[Names], *, clients: bool | None = None, classes: Collection[str] = ()) -> Layout:
    """The layout of a tree; `folders`: the path of names to each folder with images.

    clients  whether ambiguous folders are clients (True) or classes (False), as the user states; None: not stated
    classes  the names of all classes, if known

    Raises:
        DataError: the layout is ambiguous, or the tree contains copies.
    """
    paths = {names for names in folders if names}
    if not paths:
        raise DataError("the images lie outside class folders; make one folder a class: <class>/…")
    split = _split_level(paths, classes)
    if split is None:
        tests = frozenset() if clients is False else _test_beside_clients(paths)
        _refuse_mixed(paths, classes, tests)
        if tests:
            return Layout(("client", "class"), {}, tests)
        return Layout(_class_levels(paths, clients, classes), {})
    at, splits = split
    again = _named_again(paths, at)
    if at == 0 and not any(splits[names[0]] == "train" and len(names) > 1 + again for names in paths):
        raise DataError("the training images lie outside class folders; make one folder a class: train/<class>/…")
    rest = {names[:at] + names[at + 1 + again :] for names in paths} - {()}
    _refuse_mixed(rest, classes)
    levels = _class_levels(rest, clients, classes)
    nothing: Level = "-"
    filled = [*levels, *[nothing] * (at - len(levels))]
    filled[at:at] = ["split", nothing] if again else ["split"]
    return Layout(tuple(filled), splits)


def _at(paths: Iterable[Names], level: int) -> set[str]:
    return {names[level] for names in paths if len(names) > level}


def _split_level(paths: set[Names], classes: Collection[str]) -> tuple[int, dict[str, Split]] | None:
    """The level whose names are splits; None if there is none."""
    for level in range(_DEEPEST):
        names = _at(paths, level)
        splits = as_splits(names)
        if splits is None or names <= set(classes):
            continue
        _refuse_without_training(names, splits)
        above = {path[:level] for path in paths if len(path) >= level}
        if undivided := above - {path[:level] for path in paths if len(path) > level} - {()}:
            raise DataError(
                f"other folders are divided into {_some(names)}, and {_some('/'.join(one) for one in undivided)} is not"
            )
        return level, splits
    return None


def _refuse_without_training(names: set[str], splits: Mapping[str, Split]) -> None:
    by_split: dict[Split, list[str]] = defaultdict(list)
    for name, split in sorted(splits.items()):
        by_split[split].append(name)
    for split, same in by_split.items():
        if len(same) > 1:
            raise DataError(f"the folders {_some(same)} are all named as one split, {split}: keep one, rename others")
    if "train" not in by_split:
        raise DataError(
            f"the folders {_some(names)} are named as splits, and none as the training split: name it train, or give "
            "the folder above"
        )


def _refuse_mixed(paths: set[Names], classes: Collection[str], tests: Collection[str] = ()) -> None:
    """Refuse split folders next to other folders, except `tests`, known classes, and a class called train.

    Raises:
        DataError: there are such folders.
    """
    beside: dict[Names, set[str]] = defaultdict(set)
    for names in paths:
        for level in range(min(len(names), _DEEPEST)):
            beside[names[:level]].add(names[level])
    for above, names_here in sorted(beside.items()):
        named = {name for name in names_here if _is_split_here(name, names_here)} - set(classes)
        if not named or (not above and named == set(tests)):
            continue
        others = names_here - named
        if others and {split_word(name) for name in named} == {"train"} and all((*above, n) in paths for n in named):
            continue  # "train" as a vehicle
        raise DataError(_mixed("/".join(above), named, others, beside))


def _is_split_here(name: str, beside: set[str]) -> bool:
    if split_word(name):
        return True
    own = split_name(name)
    if own is None:
        return False
    same = {found.split for found in map(split_name, beside) if found is not None and found.rest == own.rest}
    return "train" in same and len(same) > 1


def _mixed(above: str, named: set[str], others: set[str], beside: Mapping[Names, set[str]]) -> str:
    inside = f" in {above}" if above else ""
    if not others:
        return f"{_some(named)}{inside}: folders named as splits where classes or clients are expected; rename them"
    prefix = tuple(above.split("/")) if above else ()
    copies = sorted(name for name in others if beside.get((*prefix, name), set()) & named)
    if copies:
        again = _some(beside[(*prefix, copies[0])] & named)
        return (
            f"the same images lie twice{inside}? {_some(named)} lie beside {copies[0]}, which holds {again} again: "
            f"move one away, or give the folder {'/'.join((*prefix, copies[0]))}"
        )
    return (
        f"{_some(named)}{inside}, named as {'splits' if len(named) > 1 else 'a split'}, beside {_some(others)}: move "
        f"{_some(others)} away or into train, or list {'those names' if len(named) > 1 else 'that name'} in "
        "classes.json if they are classes"
    )


def _test_beside_clients(paths: set[Names]) -> frozenset[str]:
    """The one folder with the global test set next to the folders of clients; empty if there is none."""
    names = _at(paths, 0)
    tests = {name for name in names if split_word(name) == "test"}
    others = names - tests
    deep = {path[0] for path in paths if len(path) > 1}
    own = {path[1] for path in paths if len(path) > 1 and path[0] in tests}
    fits = len(tests) == 1 and others and deep == names and not own & others
    splits = [name for name in others if _is_split_here(name, names)]
    return frozenset(tests) if fits and not splits else frozenset()


def _named_again(paths: set[Names], at: int) -> int:
    """1 if every split folder contains one folder of the same meaning (seg_train/seg_train), else 0."""
    below = {(names[at], names[at + 1]) for names in paths if len(names) > at + 1}
    return int(bool(below) and all(_same_meaning(outer, inner) for outer, inner in below))


def _same_meaning(outer: str, inner: str) -> bool:
    above, below = split_name(outer), split_name(inner)
    return above is not None and below is not None and above.split == below.split


def _class_levels(paths: set[Names], clients: bool | None, classes: Collection[str]) -> tuple[Level, ...]:
    """The levels of clients and classes, if `paths` has no level of splits."""
    first, second = _at(paths, 0), _at(paths, 1)
    direct = {names[0] for names in paths if len(names) == 1}
    if first <= set(classes):
        return ("class",)
    if second and second <= set(classes):
        return ("client", "class")
    _refuse_copies(paths, first)
    if direct:
        doubtful = direct < first and direct <= _with_folders(paths) and _shared(paths)
        if doubtful and clients is None:
            raise DataError(_undecided(first, second))
        return ("client", "class") if doubtful and clients else ("class",)
    if len(first) == 1:  # a single top folder
        inner = _class_levels({names[1:] for names in paths}, clients if clients is False else None, classes)
        return ("client", *inner) if clients and "client" not in inner else ("-", *inner)
    return _two_levels(first, second, _shared(paths), clients)


def _two_levels(first: set[str], second: set[str], shared: set[str], clients: bool | None) -> tuple[Level, ...]:
    """The levels if all images are in the second folder or below it."""
    owners, owners_below = _all(_CLIENT, first), _all(_CLIENT, second)
    if clients is not False and owners != owners_below:
        return ("client", "class") if owners else ("class", "client")
    if clients:
        return ("client", "class")
    if clients is None and _all(_VERSION, first):
        raise DataError(
            f"{_some(first)} are probably versions of the same images, or folds of a cross-validation: give one of "
            "them as data.path, or set data.source to clients if they are clients"
        )
    if len(second) == 1 or clients is False:  # cat/images/…, dog/images/…
        return ("class",)
    if shared and not _all(_PART_OF_CLASS, second):
        return ("client", "class")
    raise DataError(_undecided(first, second))


def _undecided(first: set[str], second: set[str]) -> str:
    return (
        f"the folders {_some(first)} may be classes, or clients with the classes {_some(second)}: set data.source to "
        "imagefolder for classes, to clients for clients"
    )


def _refuse_copies(paths: set[Names], first: set[str]) -> None:
    """Refuse a folder that contains folders with the same names as its siblings."""
    below: dict[str, set[str]] = defaultdict(set)
    for names in paths:
        if len(names) > 1:
            below[names[0]].add(names[1])
    for name, inner in sorted(below.items()):
        if again := inner & (first - {name}):
            raise DataError(
                f"the same images lie twice? {name} holds {_some(again)}, and so does the folder around it: move one "
                f"away, or give the folder {name}"
            )


def _shared(paths: Iterable[Names]) -> set[str]:
    """Names of the second level that occur in several folders of the first."""
    owners: dict[str, set[str]] = defaultdict(set)
    for names in paths:
        if len(names) > 1:
            owners[names[1]].add(names[0])
    return {name for name, held in owners.items() if len(held) > 1}


def _with_folders(paths: Iterable[Names]) -> set[str]:
    return {names[0] for names in paths if len(names) > 1}


def _all(pattern: re.Pattern[str], names: Collection[str]) -> bool:
    return bool(names) and all(pattern.fullmatch(name) for name in names)


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
