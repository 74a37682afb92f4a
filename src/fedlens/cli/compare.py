"""`fedlens compare`: a table that compares runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fedlens.reports.groups import Group


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
    every: Annotated[
        bool, typer.Option("--runs", help="A line for each run, also where runs differ in their seed alone.")
    ] = False,
    target: Annotated[
        float | None, typer.Option(min=0, max=1, help="Also what it took to this accuracy, such as 0.8.")
    ] = None,
    latex: Annotated[Path | None, typer.Option(help="Write the table of means to this file, for LaTeX.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of a table: an entry for each run.")
    ] = False,
) -> None:
    """Show runs side by side: accuracy, cost and time. Runs that differ in their seed alone are one line, with the mean
    over the seeds and its interval."""
    import json

    from fedlens.reports.compare import load_all, rows_of, write_comparison
    from fedlens.reports.group_tables import latex as in_latex
    from fedlens.reports.groups import grouped

    found = load_all(folders or [Path("logs")], note)
    rows, groups = sorted_by(rows_of(found, note), sort), grouped(found)
    if csv is not None:
        write_csv(rows, csv)
    if latex is not None:
        write(latex, "--latex", in_latex(groups))
    if plot is not None:
        write_comparison(folders or [Path("logs")], plot)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    elif every or sort or not repeated(groups):
        show(rows)
        show_target(groups, target)
    else:
        show_groups(groups, target)


def show_all(folder: Path) -> None:
    """Print what `fedlens compare` prints of this folder."""
    from fedlens.reports.compare import load_all, rows_of
    from fedlens.reports.groups import grouped

    found = load_all([folder], note)
    if repeated(groups := grouped(found)):
        show_groups(groups)
    else:
        show(rows_of(found, note))


def repeated(groups: Sequence[Group]) -> bool:
    """Whether there are seeds to take a mean over."""
    return any(len(group.runs) > 1 for group in groups)


def show_groups(groups: Sequence[Group], target: float | None = None) -> None:
    """Print the means over seeds, the differences to the first group, and what a target took."""
    from fedlens.reports.group_tables import against_the_first, means, notes

    show_table(*means(groups))
    if len(groups) > 1:
        show_table(*against_the_first(groups))
    show_target(groups, target)
    show_notes(notes(groups))


def show_target(groups: Sequence[Group], target: float | None) -> None:
    from fedlens.reports.group_tables import to_target

    if target is not None:
        show_table(*to_target(groups, target))


def show_table(head: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """Print a table whose first column is a name, and an empty line; on a narrow terminal the name has a line of its
    own."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    lines = list(
        zip(
            columns([[row[0]] for row in (head, *cells)], "<"),
            columns([row[1:] for row in (head, *cells)], ">"),
            strict=True,
        )
    )
    narrow = console.is_terminal and max(len(name) + 2 + len(numbers) for name, numbers in lines) > console.width
    for place, (name, numbers) in enumerate(lines):
        style = "" if place else "bold"
        if narrow:
            console.print(Text(name.rstrip(), style="bold"), soft_wrap=True)
        console.print(Text(f"  {numbers}" if narrow else f"{name}  {numbers}", style=style), soft_wrap=True)
    console.print()


def show_notes(notes: Sequence[str]) -> None:
    from rich.console import Console
    from rich.text import Text

    from fedlens.core.lines import folded

    console = Console()
    for note in notes:
        text = folded(note, console.width, 2) if console.is_terminal else note
        console.print(Text(text, style="dim"), soft_wrap=True)


def write(path: Path, option: str, text: str) -> None:
    """Raises ConfigError: the file that an option names cannot be written."""
    from fedlens.errors import ConfigError

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{option} {path}: cannot be written ({error.strerror}); give another file",
            code="unwritable",
            key=str(path),
        ) from error


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
    import io

    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write(path, "--csv", file.getvalue())


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table and the notes on its figures, fitted to the width of a terminal."""
    from rich.console import Console
    from rich.text import Text

    from fedlens.reports.compare import notes

    console = Console()
    for line, bold in table(rows, console.width if console.is_terminal else None):
        console.print(Text(line, style="bold" if bold else ""), soft_wrap=True)
    console.print()
    show_notes(notes(rows))


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
