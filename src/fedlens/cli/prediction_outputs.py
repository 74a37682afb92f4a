"""Where `fedlens predict` puts its answers: the screen, lines of JSON, a CSV file, a page, pictures with maps."""

from __future__ import annotations

import csv
import json
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from itertools import count as numbers
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from fedlens.core import clean
from fedlens.core.files import writing
from fedlens.core.words import count
from fedlens.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fedlens.data.images import Pixels
    from fedlens.inference.predict import Guess, Prediction


_MOST_TABLES = 10
"""Images up to which the screen shows a table for each; of more it shows a line each."""


@dataclass(frozen=True)
class Seen:
    """A prediction; view, uint8 (S, S, 3), and places, (h, w), a map of where its class is seen, if somebody wants
    them."""

    prediction: Prediction
    view: Pixels | None
    places: NDArray[np.float32] | None


class Output(ABC):
    """Takes every image, in order."""

    speaks = False
    """Prints while images are read."""

    views: tuple[int, int] = (0, 0)
    """The side, in pixels, of the views that it shows, and of how many images at most."""

    @abstractmethod
    def add(self, seen: Seen) -> None:
        """An image with its prediction."""

    def fail(self, image: Path, problem: str) -> None:  # noqa: B027
        """An image that cannot be read; `problem` does not name it."""

    def close(self) -> None:  # noqa: B027
        """After the last image."""


class Tables(Output):
    """A table for each image, on the screen."""

    speaks = True

    def add(self, seen: Seen) -> None:
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        table = Table()
        table.add_column("class")
        table.add_column("probability", justify="right")
        for guess in seen.prediction.guesses:
            table.add_row(escape(clean.line(guess.shown)), f"{guess.probability:.1%}")
        console = Console()
        console.print(escape(clean.line(str(seen.prediction.image))), soft_wrap=True, highlight=False)
        console.print(table)


class Lines(Output):
    """A line for each image, on the screen."""

    speaks = True

    def add(self, seen: Seen) -> None:
        best = seen.prediction.guesses[0]
        typer.echo(f"{best.probability:6.1%}  {clean.line(best.shown)}  {clean.line(str(seen.prediction.image))}")


class JsonLines(Output):
    """A line of JSON for each image, on standard output."""

    speaks = True

    def add(self, seen: Seen) -> None:
        guesses = [{**_names(guess), "probability": round(guess.probability, 6)} for guess in seen.prediction.guesses]
        typer.echo(json.dumps({"image": str(seen.prediction.image), "top": guesses}, ensure_ascii=False))

    def fail(self, image: Path, problem: str) -> None:
        typer.echo(json.dumps({"image": str(image), "error": problem}, ensure_ascii=False))


class Totals(Output):
    """How many images of each class, on the screen at the end."""

    _MOST = 10

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, seen: Seen) -> None:
        self._counts[seen.prediction.guesses[0].shown] += 1

    def close(self) -> None:
        for label, number in self._counts.most_common(self._MOST):
            typer.echo(f"{number:9,}  {clean.line(label)}")
        if len(self._counts) > self._MOST:
            rest = self._counts.most_common()[self._MOST :]
            typer.echo(f"{sum(number for _, number in rest):9,}  of {count(len(rest), 'other class')}")


class CsvFile(Output):
    """A row for each image; what is written stays if the command is stopped."""

    def __init__(self, path: Path, top: int, display: bool) -> None:
        """display: with the display names of classes. Raises ConfigError: the file cannot be written."""
        self._path = path
        columns = ("class", "display", "probability") if display else ("class", "probability")
        others = [f"{column}_{place}" for place in range(2, top + 1) for column in columns]
        self._cells = top * len(columns)
        self._row(["image", *columns, *others, "error"], mode="w")

    def add(self, seen: Seen) -> None:
        guesses = [
            cell for guess in seen.prediction.guesses for cell in (*_names(guess).values(), f"{guess.probability:.6f}")
        ]
        self._row([seen.prediction.image, *guesses, *[""] * (self._cells - len(guesses)), ""])

    def fail(self, image: Path, problem: str) -> None:
        self._row([image, *[""] * self._cells, problem])

    def close(self) -> None:
        written("csv", self._path)

    def _row(self, cells: Sequence[object], mode: Literal["a", "w"] = "a") -> None:
        with (
            writing("--csv", self._path),
            self._path.open(mode, encoding="utf-8", errors="backslashreplace", newline="") as file,
        ):
            csv.writer(file).writerow(cells)


class SheetFile(Output):
    """A page of pictures."""

    def __init__(self, path: Path, images: Sequence[Path], model: str) -> None:
        """Raises ConfigError: the file cannot be written."""
        from fedlens.reports.sheet import MOST, SIDE, Sheet

        refuse_unwritable("--html", path)
        self.views = SIDE, MOST
        self._path, self._model = path, model
        self._sheet = Sheet(images)
        self._unreadable: list[tuple[Path, str]] = []

    def add(self, seen: Seen) -> None:
        best = seen.prediction.guesses[0]
        if seen.view is None or self._sheet.full:
            self._sheet.count(best.shown)
        else:
            self._sheet.add(seen.prediction.image, best.shown, best.probability, seen.view, seen.places)

    def fail(self, image: Path, problem: str) -> None:
        self._unreadable.append((image, problem))

    def close(self) -> None:
        from fedlens.reports.page import write_output

        write_output("--html", self._path, self._sheet.render(self._model, self._unreadable))
        written("page", self._path)


class MapFiles(Output):
    """For each image a PNG in a folder: the picture, and beside it the picture under its map."""

    def __init__(self, folder: Path, images: Sequence[Path]) -> None:
        """Raises ConfigError: the folder is not empty, or cannot be made."""
        from fedlens.data.found import relative
        from fedlens.reports.overlay import SIDE

        self.views = SIDE, len(images)
        with writing("--why-dir", folder, "folder"):
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise ConfigError(
                    f"--why-dir {folder}: the folder is not empty; give a new one", code="unwritable", key=str(folder)
                )
        self._folder = folder
        self._names = relative(images)

    def add(self, seen: Seen) -> None:
        from fedlens.reports.overlay import write_pair

        assert seen.view is not None and seen.places is not None, "asked for"
        name = self._names[seen.prediction.image]
        with writing("--why-dir", self._folder, "folder"):
            path = self._folder / name.with_name(f"{name.name}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_pair(path, seen.view, seen.places)

    def close(self) -> None:
        written("why", self._folder)


def _names(guess: Guess) -> dict[str, str]:
    """For other programs: the class, and its display name if somebody wants it."""
    return {"class": guess.label} | ({} if guess.display is None else {"display": guess.display})


def written(what: str, path: Path) -> None:
    """Said on standard error: standard output may be lines of JSON."""
    typer.echo(f"{what:5} {clean.line(str(path))}", err=True)


@dataclass(frozen=True)
class Wanted:
    """The options of the command that say where answers go. display: answers have display names."""

    top: int
    as_json: bool
    csv: Path | None
    html: Path | None
    why: bool
    why_dir: Path | None
    display: bool

    def outputs(self, images: Sequence[Path], model: str) -> list[Output]:
        """All of them, that of the screen first; nothing is written where there are no images.

        Raises:
            ConfigError: a file or folder cannot be written.
        """
        files = list(self._files(images, model)) if images else []
        if self.as_json:
            return [JsonLines(), *files]
        if files:
            return [Totals(), *files]
        return [Tables() if len(images) <= _MOST_TABLES else Lines()]

    def _files(self, images: Sequence[Path], model: str) -> Iterator[Output]:
        if self.html is not None:
            yield SheetFile(self.html, images, model)
        if self.why_dir is not None or (self.why and self.html is None):
            yield MapFiles(self.why_dir or unused_folder("why"), images)
        if self.csv is not None:
            yield CsvFile(self.csv, self.top, self.display)


def refuse_unwritable(option: str, path: Path) -> None:
    """Raises ConfigError if a file that is written at the end could not be, as far as this can be known before."""
    with writing(option, path):
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        if not os.access(path.absolute().parent, os.W_OK):
            raise FileNotFoundError(0, "no folder there in which you may write")


def unused_folder(name: str) -> Path:
    """`name`, or `name`-2, `name`-3, …: the first that is not there."""
    names = chain([name], (f"{name}-{number}" for number in numbers(2)))
    return next(path for path in map(Path, names) if not path.exists())
