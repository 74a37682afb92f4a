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
    against: Annotated[
        str, typer.Option(metavar="NAME", help="Hold means against these runs, named as in the table; else the first.")
    ] = "",
    target: Annotated[
        float | None, typer.Option(min=0, max=1, help="Also what it took to this accuracy, such as 0.8.")
    ] = None,
    latex: Annotated[Path | None, typer.Option(help="Write the table of means to this file, for LaTeX.")] = None,
    figures: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write figures for a paper into this folder, as SVG and PDF."),
    ] = None,
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
    from fedlens.reports.page import write_output

    told: list[str] = []
    found = load_all(folders or [Path("logs")], told.append)
    rows, groups = sorted_by(rows_of(found, told.append), sort), grouped(found)
    for text in told:
        note(text)
    if csv is not None:
        write_csv(rows, csv)
    if latex is not None:
        write_output("--latex", latex, in_latex(groups))
    if figures is not None:
        draw(groups, chosen(groups, against), figures)
    if plot is not None:
        write_comparison(found, plot, told, chosen(groups, against))
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        show_found(rows, groups, every=every or bool(sort), target=target, base=chosen(groups, against))


def draw(groups: Sequence[Group], base: Group, folder: Path) -> None:
    """Write the figures for a paper, and print where they are.

    Raises:
        ConfigError: they cannot be written, or there is nothing to draw.
    """
    from fedlens.errors import ConfigError
    from fedlens.reports.paper import write_figures

    files = write_figures(groups, base, folder)
    if not files:
        raise ConfigError(
            f"--figures {folder}: none of the runs has an accuracy yet", code="incompatible", key="--figures"
        )
    typer.echo(f"Figures: {', '.join(map(str, files))}\n", err=True)


def chosen(groups: Sequence[Group], text: str) -> Group:
    """The group that others are held against: the first, or the one whose name has `text` in it.

    Raises:
        ConfigError: none has, or several do.
    """
    from fedlens.errors import ConfigError

    found = [group for group in groups if text in group.label]
    exact = [group for group in found if group.label == text]
    if len(exact or found) == 1 or (found and not text):
        return (exact or found)[0]
    raise ConfigError(
        f"--against {text!r}: {'several names have' if found else 'no name has'} that in them. Known: "
        f"{'; '.join(group.label for group in found or groups)}",
        code="unknown_name",
        key="--against",
    )


def show_all(folder: Path) -> None:
    """Print what `fedlens compare` prints of this folder."""
    from fedlens.reports.compare import load_all, rows_of
    from fedlens.reports.groups import grouped

    found = load_all([folder], note)
    groups = grouped(found)
    show_found(rows_of(found, note), groups, base=groups[0])


def show_found(
    rows: Sequence[dict[str, Any]],
    groups: Sequence[Group],
    *,
    base: Group,
    every: bool = False,
    target: float | None = None,
) -> None:
    """Print every run, or means over seeds where there are any, and differences to `base`; and what a target took."""
    from fedlens.reports.compare import grounds
    from fedlens.reports.group_tables import against, means, notes, to_target
    from fedlens.reports.groups import repeated

    together = repeated(groups) and not every
    if together:
        show_table(*means(groups))
        if len(groups) > 1:
            show_table(*against(base, groups))
    else:
        show(rows)
    if target is not None:
        show_table(*to_target(groups, target))
    if together:
        show_notes([*notes(groups), *grounds(rows)])


def show_table(head: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """Print a table whose first column is a name, and an empty line."""
    show_lines([head, *cells], names=1)


def show_lines(cells: Sequence[Sequence[str]], names: int) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    for line, bold in fitted(cells, names, console.width if console.is_terminal else None):
        console.print(Text(line, style="bold" if bold else ""), soft_wrap=True)
    console.print()


def show_notes(notes: Sequence[str]) -> None:
    from rich.console import Console
    from rich.text import Text

    from fedlens.core.lines import folded

    console = Console()
    for note in notes:
        text = folded(note, console.width, 2) if console.is_terminal else note
        console.print(Text(text, style="dim"), soft_wrap=True)


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

    from fedlens.reports.page import write_output

    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_output("--csv", path, file.getvalue())


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table and the notes on its figures, fitted to the width of a terminal."""
    from fedlens.reports.compare import NAMES, as_table, notes

    head, cells = as_table(rows)
    show_lines([head, *cells], len(NAMES))
    show_notes(notes(rows))


def fitted(cells: Sequence[Sequence[str]], names: int, width: int | None = None) -> Iterator[tuple[str, bool]]:
    """The lines of a table, and whether they are bold; its header is the first row. The first `names` columns say what
    a row is about: if a row exceeds `width`, they are on a separate line above its figures."""
    named = [line[:names] for line in cells]
    about, numbers = columns(named, "<"), columns([line[names:] for line in cells], ">")
    wide = width is None or len(about[0]) + 2 + len(numbers[0]) <= width
    for place, line in enumerate(numbers):
        if wide:
            yield f"{about[place]}  {line}", place == 0
        else:
            yield from ((", ".join(named[place]), True), (f"  {line}", place == 0))


def columns(cells: Sequence[Sequence[str]], align: Literal["<", ">"]) -> list[str]:
    """Each row as one line, with columns of equal width on a screen, where a Chinese character is two columns wide."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    padded = [
        [(cell, " " * (width - cell_len(cell))) for cell, width in zip(row, widths, strict=True)] for row in cells
    ]
    return ["  ".join(cell + space if align == "<" else space + cell for cell, space in row) for row in padded]
