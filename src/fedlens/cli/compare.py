"""`fedlens compare`: a table that compares runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def compare(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Runs (or latest), or folders of runs (default: ./logs).")
    ] = None,
    sort: Annotated[str, typer.Option(help="Column to sort by, the largest first; default: the order of time.")] = "",
    csv: Annotated[Path | None, typer.Option(help="Write the table to this CSV file as well.")] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Write a page with the table and the accuracy curves; against virtual time where all have it."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show runs side by side: accuracy, cost and time."""
    import json

    from fedlens.reports.compare import compare_runs, write_comparison

    rows = sorted_by(compare_runs(folders or [Path("logs")], note), sort)
    if csv is not None:
        write_csv(rows, csv)
    if plot is not None:
        write_comparison(folders or [Path("logs")], plot)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        show(rows)


def note(text: str) -> None:
    """Print it on standard error."""
    from fedlens.core import clean

    typer.echo(clean.block(f"note: {text}"), err=True)


def sorted_by(rows: list[dict[str, Any]], column: str) -> list[dict[str, Any]]:
    """`rows` sorted by a column, the largest first; rows without a value last."""
    from fedlens.core.registry import unknown
    from fedlens.errors import ConfigError

    if not column:
        return rows
    if column not in rows[0]:
        raise ConfigError(unknown("column for --sort:", column, rows[0]), code="unknown_name", key="--sort")
    known = [row for row in rows if row[column] is not None]
    rest = [row for row in rows if row[column] is None]
    return sorted(known, key=lambda row: row[column], reverse=True) + rest


def write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    import csv

    from fedlens.errors import ConfigError

    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise ConfigError(
            f"--csv {path}: cannot be written ({error.strerror}); give another file", code="unwritable", key=str(path)
        ) from error


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table and the notes on its figures, fitted to the width of a terminal."""
    from rich.console import Console
    from rich.text import Text

    from fedlens.core.lines import folded
    from fedlens.reports.compare import notes

    console = Console()
    for line, bold in table(rows, console.width if console.is_terminal else None):
        console.print(Text(line, style="bold" if bold else ""), soft_wrap=True)
    console.print()
    for note in notes(rows):
        text = folded(note, console.width, 2) if console.is_terminal else note
        console.print(Text(text, style="dim"), soft_wrap=True)


def table(rows: Sequence[dict[str, Any]], width: int | None = None) -> Iterator[tuple[str, bool]]:
    """Lines, and whether they are bold. One line per run; if that exceeds `width`, the run's description is on a
    separate line above its figures."""
    from fedlens.reports.compare import NAMES, as_table

    head, cells = as_table(rows)
    lines = [head, *cells]
    named = [line[: len(NAMES)] for line in lines]
    names, numbers = columns(named, "<"), columns([line[len(NAMES) :] for line in lines], ">")
    wide = width is None or len(names[0]) + 2 + len(numbers[0]) <= width
    for place, line in enumerate(numbers):
        if wide:
            yield f"{names[place]}  {line}", place == 0
        else:
            yield from ((", ".join(named[place]), True), (f"  {line}", place == 0))


def columns(cells: Sequence[Sequence[str]], align: Literal["<", ">"]) -> list[str]:
    """Each row as one line, with columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(f"{cell:{align}{width}}" for cell, width in zip(row, widths, strict=True)) for row in cells]
