"""A federation as folders: OUT/client1/<class>/…, OUT/client2/<class>/…, OUT/test/<class>/….

The source `clients` reads this layout. `classes.json` stores the order of the classes, `partition.json` how the
partition was made. A class or client name that is not a valid folder name ("T-shirt/top") is changed as little as
necessary. Where the data has groups or texts, `manifest.csv` beside the folders lists all rows with them; with texts,
each client's folder has one of its own, with paths from there, so that it can move to another machine. Images without a
label lie in the client's folder itself; the manifests list them.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fedlens.core.files import read_json, write_json
from fedlens.core.labels import UNLABELLED, counted
from fedlens.data.base import schemes
from fedlens.data.division import Columns, Division, DivisionPlan, divide, findings_told
from fedlens.data.tree import CLASSES_FILE, MANIFEST_FILE
from fedlens.data.types import DataReport, ImageTable, Rows
from fedlens.errors import DataError

PARTITION_FILE = "partition.json"
TEST = "test"

_ORDER = ("path", "label", "client", "group", "split", "text")
"""Columns of a manifest."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Export:
    """What was written: the number of rows by folder, and notes. only_manifest: some rows have no image, so folders do
    not hold all of them."""

    folders: Mapping[str, int]
    notes: tuple[str, ...]
    only_manifest: bool = False


@dataclass(frozen=True)
class _Place:
    """Where a row of the table goes: the client's folder (or `TEST`), the class's folder in it, and the name of the
    image file there, "" for a row without an image."""

    row: int
    holder: str
    label: str
    name: str

    @property
    def file(self) -> Path:
        return Path(self.holder, self.label, self.name)


def export(
    table: ImageTable,
    plan: DivisionPlan,
    out: Path,
    *,
    link: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Export:
    """Divide `table` by `plan` and write it as folders, files copied as they are (or hard-linked), arrays as PNG.

    A client's folder holds all its images: validation and client test sets are held out when a run starts, so the
    plan's shares for them are not used here. Groups and texts are stored in manifests, because folders cannot express
    them. `overwrite` removes only an earlier export in `out`. `progress` is called with (files done, files in all).

    Raises:
        DataError: `out` is not empty; a file cannot be written; or as `divide`.
    """
    plan = replace(plan, validation=0.0, client_test=0.0)
    with findings_told(DataReport(len(table.labels), notes=table.notes)):
        division = divide(Columns.of(table, np.arange(len(table.labels))), plan)
    names = folder_names([client.name for client in division.clients], taken=[TEST])
    classes = folder_names(table.class_names)
    held = {name: np.union1d(c.train, c.val) for name, c in zip(names, division.clients, strict=True)}
    if len(division.test):
        held[TEST] = division.test
    places = _places(table, held, classes)
    files = [place for place in places if place.name]
    try:
        _make_room(out, overwrite, table.images)
        write_json(out / PARTITION_FILE, _record(division, plan, held, table, classes))
        write_json(out / CLASSES_FILE, classes)
        for done, place in enumerate(files, start=1):
            _write(table, place.row, out / place.file, link)
            if progress:
                progress(done, len(files))
        _write_manifests(out, table, places, list(held))
    except OSError as error:
        name = error.filename2 or error.filename or out
        hint = "; leave out --link to copy" if link else ""
        raise DataError(f"cannot write {name}: {error.strerror or error}{hint}") from error
    notes = (*table.notes, *division.notes, *_manifest_notes(table))
    return Export({name: len(rows) for name, rows in held.items()}, notes, not table.has_image.all())


def take(table: ImageTable, rows: Rows) -> ImageTable:
    """The table of `rows` alone."""
    images = table.images
    return replace(
        table,
        images=images[rows] if isinstance(images, np.ndarray) else [images[row] for row in rows.tolist()],
        labels=table.labels[rows],
        split=None if table.split is None else table.split[rows],
        clients=None if table.clients is None else table.clients[rows],
        groups=None if table.groups is None else table.groups[rows],
        texts=None if table.texts is None else [table.texts[row] for row in rows.tolist()],
    )


def folder_names(names: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """One folder name for each name, all distinct even if case is ignored."""
    used = {name.casefold() for name in taken}
    found = []
    for name in names:
        clean = re.sub(r'[/\\:*?"<>|\x00-\x1f]+', "-", name).strip(" .") or "unnamed"
        found.append(_unused(clean, "", used))
    return found


def _unused(stem: str, suffix: str, used: set[str]) -> str:
    name, number = stem + suffix, 2
    while name.casefold() in used:
        name, number = f"{stem}-{number}{suffix}", number + 1
    used.add(name.casefold())
    return name


def _places(table: ImageTable, held: Mapping[str, Rows], classes: Sequence[str]) -> list[_Place]:
    """The place of every row that is written."""
    places = []
    used: dict[tuple[str, str], set[str]] = {}
    for holder, rows in held.items():
        for row in rows.tolist():
            label = "" if table.labels[row] == UNLABELLED else classes[table.labels[row]]
            name = _file_name(table, row, used.setdefault((holder, label), set()))
            places.append(_Place(row, holder, label, name))
    return places


def _file_name(table: ImageTable, row: int, used: set[str]) -> str:
    if isinstance(table.images, np.ndarray):
        return _unused(f"{row:06}", ".png", used)
    source = table.images[row]
    return "" if source is None else _unused(source.stem, source.suffix, used)


def _make_room(out: Path, overwrite: bool, images: Any) -> None:
    """Create an empty folder at `out`, or raise an error that names what is in the way."""
    out.mkdir(parents=True, exist_ok=True)
    found = sorted(entry.name for entry in out.iterdir())
    if not found:
        return
    if not overwrite:
        raise DataError(f"{out} is not empty ({found[0]}, …); choose another --out, or --overwrite an earlier export")
    root = out.resolve()
    if not isinstance(images, np.ndarray) and any(
        file.resolve().is_relative_to(root) for file in images if file is not None
    ):
        raise DataError(f"{out} holds the images to be exported; choose another --out")
    try:
        record = read_json(out / PARTITION_FILE)
        written = [*map(str, record["clients"]), TEST]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{out} is no earlier export (no {PARTITION_FILE}): nothing removed; empty it yourself"
        ) from error
    for name in folder_names(written):
        if (out / name).is_dir():
            shutil.rmtree(out / name)
    for name in (PARTITION_FILE, CLASSES_FILE, MANIFEST_FILE):
        (out / name).unlink(missing_ok=True)


def _record(
    division: Division, plan: DivisionPlan, held: Mapping[str, Rows], table: ImageTable, classes: list[str]
) -> dict[str, Any]:
    names = {entry.factory: entry.name for entry in schemes.entries()}
    counts = {name: counted(table.labels[rows], len(classes)).tolist() for name, rows in held.items()}
    return {
        "scheme": names[type(division.scheme)],
        "parameters": asdict(division.scheme),  # type: ignore[call-overload]
        "seed": plan.seed if plan.partition_seed is None else plan.partition_seed,
        "class_names": classes,
        "test": counts.pop(TEST, None),
        "clients": counts,
    }


def _write(table: ImageTable, row: int, file: Path, link: bool) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(table.images, np.ndarray):
        if (source := table.images[row]) is not None:
            (os.link if link else shutil.copy2)(source, file)
        return
    image = table.images[row]
    done, content = cv2.imencode(".png", image[..., ::-1] if image.shape[-1] == 3 else image)
    if not done:
        raise DataError(f"{file}: cannot be encoded as PNG (shape {image.shape})")
    file.write_bytes(content.tobytes())


def _write_manifests(out: Path, table: ImageTable, places: Sequence[_Place], holders: Sequence[str]) -> None:
    """The manifest of all rows, and with texts one of each holder, for what folders cannot express."""
    if table.groups is None and table.texts is None:
        return
    owners = ["" if place.holder == TEST else place.holder for place in places]
    splits = [TEST if place.holder == TEST else "train" for place in places]
    _write_manifest(out, Path(), table, places, {"client": owners, "split": splits})
    for holder in holders if table.texts is not None else ():
        (out / holder).mkdir(exist_ok=True)  # a client of texts alone has no class folders
        _write_manifest(out / holder, Path(holder), table, [place for place in places if place.holder == holder], {})


def _write_manifest(
    folder: Path, within: Path, table: ImageTable, places: Sequence[_Place], more: Mapping[str, Sequence[str]]
) -> None:
    """A table of `places` in `folder`, which is `within` of the export. `more`: further columns."""
    rows = [place.row for place in places]
    columns: dict[str, Sequence[str]] = {
        "path": [place.file.relative_to(within).as_posix() if place.name else "" for place in places],
        "label": [place.label for place in places],
        **more,
    }
    if table.groups is not None:
        columns["group"] = table.groups[rows].tolist()
    if table.texts is not None:
        columns["text"] = [table.texts[row] for row in rows]
    order = [name for name in _ORDER if name in columns]
    with (folder / MANIFEST_FILE).open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(order)
        writer.writerows(zip(*(columns[name] for name in order), strict=True))


def _manifest_notes(table: ImageTable) -> tuple[str, ...]:
    notes = []
    if table.groups is not None:
        notes.append(f"folders cannot say which images belong together; {MANIFEST_FILE} can: train on that file")
    if table.texts is not None:
        notes.append(f"folders hold no texts; {MANIFEST_FILE} does, and each client's folder has its own for its site")
    return tuple(notes)
