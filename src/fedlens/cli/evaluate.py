"""`fedlens evaluate`: how good a model is on labelled pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedlens.cli.progress import progress_bar
from fedlens.core import clean

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fedlens.inference.evaluate import Evaluated
    from fedlens.inference.predict import Predictor

_MOST_CLASSES = 20
"""Classes in the table on the screen; of more, those with the lowest recall."""


def evaluate(
    model: Annotated[
        str, typer.Argument(help="a run folder (latest: the newest run), or a model's name: its ImageNet weights")
    ],
    folder: Annotated[Path, typer.Argument(help="a folder that has a folder of pictures for each class")],
    client: Annotated[str | None, typer.Option(help="a client of the run: the model that it uses itself")] = None,
    top: Annotated[int, typer.Option(min=0, help="most confident mistakes to show")] = 12,
    max_pixels: Annotated[
        int | None, typer.Option(min=1, help="largest image; a JPEG of more is read in a reduced size")
    ] = None,
    names: Annotated[
        str | None,
        typer.Option(metavar="FILE|LANGUAGE", help="other names of classes: a JSON file; en or zh for the sample"),
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="write a page with plots and pictures")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of tables")] = False,
) -> None:
    """Measure a model on labelled pictures.

    Shows accuracy with its 95 % interval, recall by class, and the most confident mistakes. A folder is a class if it
    has the name of one of the model's classes; others are left out, and named. An image that cannot be read is named,
    and the exit status is then 1.
    """
    from fedlens.cli.prediction_outputs import refuse_unwritable
    from fedlens.core.files import to_json
    from fedlens.data.display_names import display_names
    from fedlens.data.images import MAX_PIXELS
    from fedlens.inference.evaluate import displayed, in_json, labelled
    from fedlens.inference.evaluate import evaluate as evaluated
    from fedlens.inference.predict import open_predictor
    from fedlens.tracking.run_dir import newest

    if html is not None:
        refuse_unwritable("--html", html)
    predictor = open_predictor(model, client)
    display = None if names is None else display_names(names, predictor.class_names)
    found = labelled(folder.expanduser(), predictor.class_names)
    notes = [*filter(None, [predictor.remark]), *found.notes]
    limit = max_pixels or MAX_PIXELS
    with progress_bar("reading pictures") as progress:
        result = evaluated(predictor, found, mistakes=top, max_pixels=limit, seen=progress)
    for one in result.unreadable:
        typer.secho(clean.block(one.problem), fg=typer.colors.RED, err=True)
    for note in notes:
        typer.echo(clean.block(f"note: {note}"), err=True)
    shown = result if display is None else displayed(result, display)
    if html is not None:
        titles = str(newest(Path(model))), str(folder)
        _write_page(html, shown, predictor, titles, notes, limit)
    typer.echo(to_json(in_json(result, notes, display), indent=2)) if as_json else _show(shown)
    if result.unreadable:
        many = f"{len(result.unreadable):,} of {len(found.images):,} images"
        typer.echo(f"{many} could not be read and are in no figure", err=True)
        raise typer.Exit(1)


def _write_page(
    path: Path, result: Evaluated, predictor: Predictor, titles: tuple[str, str], notes: Sequence[str], limit: int
) -> None:
    """`titles`: the model's name and the folder's."""
    from fedlens.cli.prediction_outputs import written
    from fedlens.reports.evaluation import render
    from fedlens.reports.page import write_output
    from fedlens.reports.sheet import SIDE

    views = {one.image: predictor.view(one.image, SIDE, limit) for one in result.mistakes}
    write_output("--html", path, render(result, *titles, notes, views))
    written("page", path)


def _show(result: Evaluated) -> None:
    from fedlens.cli.compare import show_lines
    from fedlens.tracking.summary import percent
    from fedlens.tracking.wording import in_full

    typer.echo(f"accuracy           {in_full(result.figures)}")
    typer.echo(f"balanced accuracy  {percent(result.evaluation.balanced_accuracy)}\n")
    show_lines([("class", "pictures", "recall", "most often taken for"), *_classes(result)], names=1)
    if result.mistakes:
        typer.echo("most confident mistakes")
    for one in result.mistakes:
        words = clean.line(f"{one.true}, taken for {one.predicted}: {one.image}")
        typer.echo(f"{percent(one.probability):>8}  {words}")


def _classes(result: Evaluated) -> Iterator[tuple[str, str, str, str]]:
    """The classes in order, those without pictures left out; of many, the ones with the lowest recall."""
    from fedlens.inference.evaluate import rows
    from fedlens.tracking.summary import percent

    found = [row for row in rows(result) if row.recall is not None]
    if len(found) > _MOST_CLASSES:
        found = sorted(found, key=lambda row: row.recall or 0)[:_MOST_CLASSES]
    for row in found:
        yield clean.line(row.name), f"{row.images:,}", percent(row.recall), clean.line(row.taken_for)
