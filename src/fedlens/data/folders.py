"""Reads folders of images as a table; used by the sources `imagefolder` and `clients`."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedlens.core.words import count
from fedlens.data.images import pixel_size
from fedlens.data.labels import class_notes, normalized, spelling_notes
from fedlens.data.layout import Layout, read_layout
from fedlens.data.summary import read_as, some, splits_text
from fedlens.data.tree import CLASSES_FILE, PassedOver, is_system, natural, printable, walk
from fedlens.data.types import ImageTable
from fedlens.errors import DataError

_LOOKS = 8


def sub_folders(folder: Path) -> list[Path]:
    """The folders in `folder` except system folders, in natural order."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and not is_system(entry.name)]
    return [folder / name for name in sorted(names, key=natural)]


def existing_folder(path: Path) -> Path:
    """`path` with ~ expanded.

    Raises:
        DataError: there is no such folder.
    """
    folder = path.expanduser()
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DataError(f"data.path: {printable(folder)} {what}")
    return folder


def folder_layout(root: Path, *, clients: bool | None = None) -> Layout:
    """The layout of the folders below `root`; `clients` as for `read_layout`."""
    return _Read(root, clients).layout


def folder_table(root: Path, *, clients: bool | None = None) -> ImageTable:
    """The images below `root`, by the meaning of their folders: splits, clients, classes. `clients` as for
    `read_layout`.

    Labels follow `classes.json` in `root` if it exists, else the sorted names of all class folders. The first note
    describes how the folders were read, others what was skipped.

    Raises:
        DataError: there are no images, or only outside of class folders; the layout is ambiguous; `classes.json` does
        not name a class folder; a folder cannot be listed, or its name is not UTF-8.
    """
    return _Read(root, clients).table()


class _Read:
    """Reads one folder."""

    def __init__(self, root: Path, clients: bool | None) -> None:
        self._root = root
        self._tree, self._passed = walk(root)
        self._listed = _listed_classes(root)
        self._held = [(names, folder) for names, folder in self._tree.below() if folder.images]
        if not self._held:
            raise DataError(_no_images(root, self._passed))
        try:
            paths = {names for names, _ in self._held}
            self.layout = read_layout(paths, clients=clients, classes=self._listed or ())
        except DataError as error:
            raise DataError(f"data.path: {printable(root)}: {printable(str(error))}") from error

    def table(self) -> ImageTable:
        images: list[Path] = []
        rows: list[tuple[str, str, str]] = []
        loose: list[Path] = []
        for names, folder in self._held:
            files = [folder.path / name for name in folder.images]
            place = self.layout.place(names)
            if place is None:
                loose += files
                continue
            images += files
            rows += [(place[0] or ("train" if self.layout.tests else ""), *place[1:])] * len(files)
        if not images:
            raise DataError(f"data.path: the images in {printable(self._root)} lie outside class folders")
        splits, clients, classes = zip(*rows, strict=True)
        self._refuse_unreadable({*clients, *classes})
        names = _class_names(self._root, set(classes), self._listed)
        label_of = {name: label for label, name in enumerate(names)}
        return ImageTable(
            images=images,
            labels=np.array([label_of[name] for name in classes], np.int64),
            class_names=names,
            split=_column(splits),
            clients=_column(clients) if self.layout.has_clients else None,
            native_size=common_size(images),
            notes=(self._summary(names, splits, clients), *self._doubts(loose)),
        )

    def _refuse_unreadable(self, names: Collection[str]) -> None:
        """Raises DataError: the name of a class or client folder is not valid UTF-8."""
        for name in sorted(names):
            if printable(name) != name:
                raise DataError(
                    f"data.path: {printable(self._root)}: the folder's name '{printable(name)}' is not UTF-8 text: "
                    "rename the folder"
                )

    def _summary(self, classes: Sequence[str], splits: Sequence[str], clients: Sequence[str]) -> str:
        """One line that describes how the folders were read."""
        layout = self.layout
        shape = "/".join("*" if level == "-" else f"<{level}>" for level in layout.levels)
        folders = {split: name for name, split in layout.splits.items()}
        held_out = f"test set in {some(sorted(layout.tests))}" if layout.tests else ""
        if layout.splits:
            held_out = splits_text(set(splits) & set(folders), folders)
        return read_as(printable(self._root), shape, classes, clients, held_out)

    def _doubts(self, loose: Sequence[Path]) -> list[str]:
        """Notes on skipped files, and on names that may mean the same class."""
        passed, depth = self._passed, len(self.layout.levels)
        folders = [names for names, folder in self._tree.below() if len(names) <= depth]
        used = {names[:place] for names, _ in self._held for place in range(len(names) + 1)}
        empty = ["/".join(names) for names in folders if names not in used and names[:-1] in used]
        place = self.layout.levels.index("class")
        original = {folder.path.name: folder.name for names, folder in self._tree.below() if len(names) == place + 1}
        notes = []
        if loose:
            notes.append(f"left out {count(len(loose), 'image')} outside class folders, such as {printable(loose[0])}")
        if empty:
            notes.append(f"no images in {printable(some(empty))}: not a class, client or split")
        if passed.links:
            notes.append(
                f"not followed: {count(len(passed.links), 'link')} to a folder that is read already or that contains "
                f"the link, such as {printable(passed.links[0])}"
            )
        if passed.system:
            notes.append(f"ignored hidden and system files: {_counted(passed.system)}")
        if passed.other:
            notes.append(f"ignored files that are no images by their names: {_counted(passed.other)}")
        return [*notes, *spelling_notes(original), *class_notes(original.values())]


def common_size(images: Sequence[Path]) -> int | None:
    """The common longer side, in pixels, of a sample of `images`; None if they differ.

    Only headers are read. Exported samples and small research data sets have one size; photographs do not.
    """
    some = images[:: max(len(images) // _LOOKS, 1)][:_LOOKS]
    sizes = {max(size) for size in map(pixel_size, some) if size}  # unreadable files are reported later
    return sizes.pop() if len(sizes) == 1 else None


def _column(values: Sequence[str]) -> NDArray[np.str_] | None:
    return np.array(values, np.str_) if any(values) else None


def _listed_classes(root: Path) -> tuple[str, ...] | None:
    """The names in `classes.json`; None if there is no such file."""
    file = root / CLASSES_FILE
    if not file.exists():
        return None
    try:
        names = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{printable(file)}: not a JSON list of class names: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise DataError(f"{printable(file)}: must be a JSON list of different class names")
    return tuple(map(normalized, names))


def _class_names(root: Path, found: set[str], listed: tuple[str, ...] | None) -> tuple[str, ...]:
    if listed is None:
        return tuple(sorted(found))
    if extra := sorted(found - set(listed)):
        raise DataError(
            f"{printable(root / CLASSES_FILE)} lacks the class folders {some(extra)}; add them, or remove the file"
        )
    return listed


def _no_images(root: Path, passed: PassedOver) -> str:
    there = f" ({_counted(passed.other)} are no images by their names)" if passed.other else ""
    return (
        f"data.path: no images in {printable(root)}{there}; expected <class>/<image>, <split>/<class>/<image> or "
        "<client>/<class>/<image>, a data set saved by Hugging Face datasets, or a .csv or .parquet manifest"
    )


def _counted(found: Counter[str]) -> str:
    return some([f"{number:,} {printable(name)}" for name, number in found.most_common()])
