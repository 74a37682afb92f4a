"""`fedlens search`: find pictures by a text, or by a picture."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedlens.cli.progress import progress_bar
from fedlens.core import clean
from fedlens.errors import ModelError

if TYPE_CHECKING:
    from fedlens.data.found import Unreadable
    from fedlens.inference.feature_files import Features
    from fedlens.inference.search import Searcher

ASK = "-"
"""As `--text`: texts are read from standard input, one a line."""


def search(
    model: Annotated[
        str, typer.Argument(metavar="RUN", help="the run folder of a dual encoder (latest: the newest run)")
    ],
    images: Annotated[
        list[Path],
        typer.Argument(help="photographs, folders with all that is below them, patterns such as '**/*.jpg'"),
    ],
    text: Annotated[
        str | None, typer.Option(help="what the pictures should show; -: ask for texts, one a line, until an empty one")
    ] = None,
    image: Annotated[
        Path | None, typer.Option(metavar="FILE", help="a picture that they should be like; with --text: like both")
    ] = None,
    client: Annotated[str | None, typer.Option(help="a client of the run: the model that it uses itself")] = None,
    top: Annotated[int, typer.Option(min=1, help="pictures to show")] = 20,
    max_pixels: Annotated[
        int | None, typer.Option(min=1, help="largest image; a JPEG of more is read in a reduced size")
    ] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="write a row for each picture found")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="write a page with the pictures found")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one line of JSON for each picture found")] = False,
) -> None:
    """Find the pictures that are most like a text or a picture.

    Every picture is encoded once: a later search opens new and changed files alone. With --text - the program stays,
    and each further search is done at once. An image that cannot be read is named, and the exit status is then 1.
    """
    asks = text == ASK
    _check_given(text, image, table_or_page=csv or html)
    from fedlens.cli.search_outputs import Found, outputs
    from fedlens.data.found import Unreadable, find_images
    from fedlens.data.images import MAX_PIXELS
    from fedlens.inference.search import Searcher
    from fedlens.tracking.run_dir import newest

    searcher = Searcher(model, client, max_pixels=max_pixels or MAX_PIXELS)
    if asks and image is not None:
        searcher.query(None, image)  # one that cannot be read is told before any picture is encoded
    given = [] if asks else [(text, searcher.query(text, image))]
    wanted = outputs(as_json, csv, html)
    files = find_images(images)
    encoded = searcher.encode(files.images, partial(progress_bar, "encoding pictures"))
    unreadable = [*(Unreadable(path, problem) for path, problem in files.problems), *encoded.unreadable]
    _tell((searcher.remark, *files.notes, encoded.remark), unreadable)
    told = unreadable
    for looked_for, query in given or _asked(searcher, image):
        found = Found(looked_for, image, encoded.most_like(query, top), len(encoded.images), told)
        for output in wanted:
            output(found, str(newest(Path(model))), searcher.view)
        told = []
    if unreadable:
        total = len(encoded.images) + len(unreadable)
        if total > 1:
            typer.echo(f"{len(unreadable):,} of {total:,} images could not be read", err=True)
        raise typer.Exit(1)


def _check_given(text: str | None, image: Path | None, table_or_page: Path | None) -> None:
    """Raises typer.BadParameter: nothing to look for, or a file that each further text would replace."""
    if text is None and image is None:
        raise typer.BadParameter(
            "say what to look for: a text, a picture with --image, or - to be asked", param_hint="--text"
        )
    if text == ASK and table_or_page:
        raise typer.BadParameter(
            "each text would replace the file: use --json", param_hint="--text - with --csv or --html"
        )


def _tell(notes: Iterable[str], unreadable: Iterable[Unreadable]) -> None:
    for note in filter(None, notes):
        typer.echo(clean.block(f"note: {note}"), err=True)
    for one in unreadable:
        typer.secho(clean.block(one.problem), fg=typer.colors.RED, err=True)


def _asked(searcher: Searcher, image: Path | None) -> Iterator[tuple[str, Features]]:
    """Texts from standard input with their features, until an empty line or the end. One of no use is told, and asked
    again."""
    while text := _line():
        try:
            query = searcher.query(text, image)
        except ModelError as error:
            typer.secho(clean.block(str(error)), fg=typer.colors.RED, err=True)
        else:
            yield text, query


def _line() -> str:
    """The next line of standard input; "" at its end."""
    if sys.stdin.isatty():
        typer.echo("look for (empty: end): ", err=True, nl=False)
    return sys.stdin.buffer.readline().decode(errors="replace").strip()
