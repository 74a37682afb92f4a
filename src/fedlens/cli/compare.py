"""`fedlens compare`: runs side by side in a table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence


def compare(
    folders: Annotated[list[Path] | None, typer.Argument(help="Runs, or folders of runs (default: ./logs).")] = None,
    sort: Annotated[str, typer.Option(help="Column to sort by, the largest first; default: the order of time.")] = "",
    csv: Annotated[Path | None, typer.Option(help="Write the table to this CSV file as well.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show runs side by side: accuracy, cost and time."""
    import json

    from fedlens.reports.compare import compare_runs

    rows = sorted_by(compare_runs(folders or [Path("logs")]), sort)
    if csv is not None:
        write_csv(rows, csv)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        show(rows)


def sorted_by(rows: list[dict[str, Any]], column: str) -> list[dict[str, Any]]:
    """`rows` by a column, the largest first; rows without a value last."""
    from fedlens.errors import ConfigError
    from fedlens.registry import unknown

    if not column:
        return rows
    if column not in rows[0]:
        raise ConfigError(unknown("column for --sort:", column, rows[0]))
    known = [row for row in rows if row[column] is not None]
    rest = [row for row in rows if row[column] is None]
    return sorted(known, key=lambda row: row[column], reverse=True) + rest


def write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    import csv

    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    from fedlens.reports.headline import duration
    from fedlens.tracking.summary import percent

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("run", overflow="fold")
    for name in ("model", "strategy"):
        table.add_column(name, no_wrap=True)
    for name in ("rounds", "accuracy", "best", "worst 10th", "MB", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["run"],
            row["model"],
            row["strategy"],
            f"{row['rounds']}/{row['planned_rounds'] or '–'}" + (" stopped" if row["status"] == "stopped" else ""),
            percent(row["accuracy"]),
            percent(row["best_accuracy"]),
            percent(row["worst_tenth"]),
            f"{row['megabytes']:.1f}",
            duration(row["seconds"]),
        )
    Console(width=None if sys.stdout.isatty() else 200).print(table)  # a pipe has no edge to break names at
