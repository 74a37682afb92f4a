"""A federation as folders: OUT/client1/<class>/…, OUT/client2/<class>/…, OUT/test/<class>/….

The source `clients` reads this layout. `classes.json` stores the order of the classes, `partition.json` how the
partition was made. A class or client name that is not a valid folder name ("T-shirt/top") is changed as little as
necessary.
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
from fedlens.data.base import schemes
from fedlens.data.division import Columns, Division, DivisionPlan, divide, findings_told
from fedlens.data.tree import CLASSES_FILE
from fedlens.data.types import DataReport, ImageTable, Rows
from fedlens.errors import DataError

PARTITION_FILE = "partition.json"
MANIFEST_FILE = "manifest.csv"
TEST = "test"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Export:
    """What was written: the number of images by folder, and notes."""

    folders: Mapping[str, int]
    notes: tuple[str, ...]


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
    plan's shares for them are not used here. Groups are stored in `manifest.csv`, because folders cannot express them.
    `overwrite` removes only an earlier export in `out`. `progress` is called with (files done, files in all).

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
    files = _place(table, held, classes)
    try:
        _make_room(out, overwrite, table.images)
        write_json(out / PARTITION_FILE, _record(division, plan, held, table, classes))
        write_json(out / CLASSES_FILE, classes)
        for done, (row, file) in enumerate(files, start=1):
            _write(table, row, out / file, link)
            if progress:
                progress(done, len(files))
        if table.groups is not None:
            _write_manifest(out / MANIFEST_FILE, files, table.groups)
    except OSError as error:
        name = error.filename2 or error.filename or out
        hint = "; leave out --link to copy" if link else ""
        raise DataError(f"cannot write {name}: {error.strerror or error}{hint}") from error
    notes = [*table.notes, *division.notes]
    if table.groups is not None:
        notes.append(f"folders cannot say which images belong together; {MANIFEST_FILE} can: train on that file")
    return Export({name: len(rows) for name, rows in held.items()}, tuple(notes))


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


def _place(table: ImageTable, held: Mapping[str, Rows], classes: Sequence[str]) -> list[tuple[int, Path]]:
    """(row, file relative to the export) for every image."""
    files = []
    used: dict[Path, set[str]] = {}
    for name, rows in held.items():
        for row in rows.tolist():
            folder = Path(name, classes[table.labels[row]])
            source = None if isinstance(table.images, np.ndarray) else table.images[row]
            stem, suffix = (f"{row:06}", ".png") if source is None else (source.stem, source.suffix)
            files.append((row, folder / _unused(stem, suffix, used.setdefault(folder, set()))))
    return files


def _make_room(out: Path, overwrite: bool, images: Any) -> None:
    """Create an empty folder at `out`, or raise an error that names what is in the way."""
    out.mkdir(parents=True, exist_ok=True)
    found = sorted(entry.name for entry in out.iterdir())
    if not found:
        return
    if not overwrite:
        raise DataError(f"{out} is not empty ({found[0]}, …); choose another --out, or --overwrite an earlier export")
    root = out.resolve()
    if not isinstance(images, np.ndarray) and any(file.resolve().is_relative_to(root) for file in images):
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
    counts = {name: np.bincount(table.labels[rows], minlength=len(classes)).tolist() for name, rows in held.items()}
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
        (os.link if link else shutil.copy2)(table.images[row], file)
        return
    image = table.images[row]
    done, content = cv2.imencode(".png", image[..., ::-1] if image.shape[-1] == 3 else image)
    if not done:
        raise DataError(f"{file}: cannot be encoded as PNG (shape {image.shape})")
    file.write_bytes(content.tobytes())


def _write_manifest(file: Path, files: Sequence[tuple[int, Path]], groups: Any) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "client", "group", "split"])
        for row, path in files:
            client, label = path.parts[:2]
            test = client == TEST
            writer.writerow([path.as_posix(), label, "" if test else client, groups[row], TEST if test else "train"])
