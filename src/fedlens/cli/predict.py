"""`fedlens predict`: classify photographs."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedlens.core import clean
from fedlens.errors import DataError

if TYPE_CHECKING:
    from fedlens.inference.predict import Prediction


def predict(
    model: Annotated[
        str, typer.Argument(help="a run folder (latest: the newest run), or a model's name: its ImageNet weights")
    ],
    images: Annotated[list[Path], typer.Argument(help="photographs")],
    client: Annotated[str | None, typer.Option(help="a client of the run: the model that it uses itself")] = None,
    top: Annotated[int, typer.Option(min=1, help="classes to show for each")] = 5,
    max_pixels: Annotated[
        int | None, typer.Option(min=1, help="largest image; a JPEG of more is read in a reduced size")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one line of JSON for each image")] = False,
) -> None:
    """Name what is in photographs.

    Shows the most probable classes of a trained run, or of ImageNet's thousand. An image that cannot be read is named,
    and the exit status is then 1.
    """
    from fedlens.data.images import MAX_PIXELS
    from fedlens.inference.predict import open_predictor

    predictor = open_predictor(model, client)
    if predictor.remark:
        typer.echo(f"note: {predictor.remark}", err=True)
    failed = 0
    for image in images:
        try:
            refuse_folder(model, image)
            prediction = predictor.predict(image, top, max_pixels or MAX_PIXELS)
        except DataError as error:
            failed += 1
            _print_problem(image, str(error), as_json)
        else:
            _print_json(prediction) if as_json else _print_table(prediction)
    if failed and len(images) > 1:
        typer.echo(f"{failed:,} of {len(images):,} images could not be read", err=True)
    if failed:
        raise typer.Exit(1)


def refuse_folder(model: str, image: Path) -> None:
    """Raises DataError if `image` is a folder; the message gives the command for the images in it."""
    if image.is_dir():
        advice = f"fedlens predict {shlex.quote(model)} {shlex.quote(str(image))}/*.jpg"
        raise DataError(f"{image} is a folder, and image files are wanted: {advice}")


def _print_problem(image: Path, problem: str, as_json: bool) -> None:
    typer.secho(clean.block(problem), fg=typer.colors.RED, err=True)
    if as_json:
        typer.echo(json.dumps({"image": str(image), "error": problem.removeprefix(f"{image}: ")}, ensure_ascii=False))


def _print_json(prediction: Prediction) -> None:
    guesses = [{"class": guess.label, "probability": round(guess.probability, 6)} for guess in prediction.guesses]
    typer.echo(json.dumps({"image": str(prediction.image), "top": guesses}, ensure_ascii=False))


def _print_table(prediction: Prediction) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    table.add_column("class")
    table.add_column("probability", justify="right")
    for guess in prediction.guesses:
        table.add_row(escape(clean.line(guess.label)), f"{guess.probability:.1%}")
    console = Console()
    console.print(escape(clean.line(str(prediction.image))), soft_wrap=True, highlight=False)
    console.print(table)
