"""Where `fedlens search` puts what it finds: the screen, lines of JSON, a CSV file, a page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from fedlens.cli.prediction_outputs import refuse_unwritable, written
from fedlens.core import clean
from fedlens.core.files import write_atomic, writing
from fedlens.errors import DataError

if TYPE_CHECKING:
    from fedlens.data.found import Unreadable
    from fedlens.data.images import Pixels
    from fedlens.inference.search import Match
    from fedlens.reports.matches import Tile


@dataclass(frozen=True)
class Found:
    """What was looked for (a text, a picture, or both), the pictures most like it, and of how many they are the
    best."""

    text: str | None
    image: Path | None
    matches: Sequence[Match]
    searched: int
    unreadable: Sequence[Unreadable]


View = Callable[[Path, int], "Pixels"]
"""As `Predictor.view`."""

Output = Callable[[Found, str, View], None]
"""Takes what was found, the name of the model, and what makes small copies of pictures."""


def outputs(as_json: bool, csv: Path | None, html: Path | None) -> list[Output]:
    """As the options ask for them, that of the screen first.

    Raises:
        ConfigError: a file cannot be written, as far as this can be known before.
    """
    chosen: list[Output] = [_lines if as_json else _table]
    for option, path, output in (("--csv", csv, _csv), ("--html", html, _page)):
        if path is not None:
            refuse_unwritable(option, path)
            chosen.append(partial(output, path))
    return chosen


def _table(found: Found, _model: str, _view: View) -> None:
    for rank, match in enumerate(found.matches, start=1):
        typer.echo(f"{rank:4}  {match.similarity:6.3f}  {clean.line(str(match.image))}")


def _lines(found: Found, _model: str, _view: View) -> None:
    """Of JSON."""
    for one in found.unreadable:
        typer.echo(json.dumps({"image": str(one.image), "error": _reason(one)}, ensure_ascii=False))
    asked = {} if found.text is None else {"text": found.text}
    for rank, match in enumerate(found.matches, start=1):
        line = {**asked, "rank": rank, "similarity": round(match.similarity, 6), "image": str(match.image)}
        typer.echo(json.dumps(line, ensure_ascii=False))


def _csv(path: Path, found: Found, _model: str, _view: View) -> None:
    content = io.StringIO(newline="")
    rows = csv.writer(content)
    rows.writerow(("rank", "similarity", "image"))
    for rank, match in enumerate(found.matches, start=1):
        rows.writerow((rank, f"{match.similarity:.6f}", match.image))
    with writing("--csv", path):
        write_atomic(path, content.getvalue().encode("utf-8", "backslashreplace"))
    written("csv", path)


def _page(path: Path, found: Found, model: str, view: View) -> None:
    from fedlens.reports.matches import Wanted, render
    from fedlens.reports.page import write_output
    from fedlens.reports.sheet import SIDE

    example = None if found.image is None else view(found.image, SIDE)
    tiles, unreadable = _tiles(found.matches, view)
    unreadable += [(one.image, _reason(one)) for one in found.unreadable]
    content = render(Wanted(found.text, example), model, tiles, found.searched, unreadable)
    write_output("--html", path, content)
    written("page", path)


def _tiles(matches: Sequence[Match], view: View) -> tuple[list[Tile], list[tuple[Path, str]]]:
    """With small copies, and the pictures of which there can be none now: features may be known of an earlier
    search."""
    from fedlens.reports.matches import Tile
    from fedlens.reports.sheet import MOST, SIDE

    tiles, gone = [], []
    for match in matches[:MOST]:
        try:
            tiles.append(Tile(match.image, match.similarity, view(match.image, SIDE)))
        except DataError as error:
            gone.append((match.image, str(error).removeprefix(f"{match.image}: ")))
    return tiles, gone


def _reason(one: Unreadable) -> str:
    """Without the name of the file."""
    return one.problem.removeprefix(f"{one.image}: ")
