"""`fedlens predict`: classify photographs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedlens.cli.progress import progress_bar
from fedlens.core import clean

if TYPE_CHECKING:
    from fedlens.cli.prediction_outputs import Output
    from fedlens.data.found import Unreadable
    from fedlens.inference.predict import Answer, Predictor
    from fedlens.inference.why import Explainer


def predict(
    model: Annotated[
        str, typer.Argument(help="a run folder (latest: the newest run), or a model's name: its ImageNet weights")
    ],
    images: Annotated[
        list[Path] | None,
        typer.Argument(help="photographs, folders with all that is below them, patterns such as '**/*.jpg'"),
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="of a run that reads texts: what it reads beside every image, or alone")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME,…|@FILE",
            help="of a dual encoder: recognise these classes, which need not have been labels; @FILE: one on each line",
        ),
    ] = None,
    client: Annotated[str | None, typer.Option(help="a client of the run: the model that it uses itself")] = None,
    top: Annotated[int, typer.Option(min=1, help="classes to show for each")] = 5,
    max_pixels: Annotated[
        int | None, typer.Option(min=1, help="largest image; a JPEG of more is read in a reduced size")
    ] = None,
    names: Annotated[
        str | None,
        typer.Option(metavar="FILE|LANGUAGE", help="other names of classes: a JSON file; en or zh for the sample"),
    ] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="write a row for each image")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="write a page with the pictures")] = None,
    why: Annotated[
        bool, typer.Option("--why", help="show where the class is seen: on the page, else as pictures in ./why")
    ] = False,
    why_dir: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="as --why, with the pictures in this new folder")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one line of JSON for each image")] = False,
) -> None:
    """Name what is in photographs.

    Shows the most probable classes of a trained run, or of ImageNet's thousand. An image that cannot be read is named,
    and the exit status is then 1.
    """
    from fedlens.cli.prediction_outputs import Seen, Wanted
    from fedlens.data.found import Unreadable, find_images
    from fedlens.data.images import MAX_PIXELS
    from fedlens.inference.predict import TEXT_ALONE
    from fedlens.inference.why import Explainer
    from fedlens.tracking.run_dir import newest

    _check_given(images, text, pictures="--why" if why or why_dir else "--html" if html else "")
    predictor = _opened(model, client, text, classes, names)
    _say(predictor.remark, predictor.note)
    explainer = Explainer(predictor.model) if why or why_dir else None
    wanted, run = Wanted(top, as_json, csv, html, why, why_dir, names is not None), str(newest(Path(model)))
    if not images:
        for output in wanted.outputs([TEXT_ALONE], run):
            output.add(Seen(predictor.of_text(top), None, None))
            output.close()
        return
    found = find_images(images)
    _say(*found.notes)
    outputs = wanted.outputs(found.images, run)
    failed, total = 0, len(found.problems) + len(found.images)
    problems = (Unreadable(path, problem) for path, problem in found.problems)
    answers = chain(problems, _answers(predictor, found.images, outputs, max_pixels or MAX_PIXELS))
    for answer in _counted(answers, total, shown=not any(output.speaks for output in outputs)):
        if isinstance(answer, Unreadable):
            failed += 1
            _fail(answer.image, answer.problem, outputs)
        else:
            _add(answer, outputs, predictor, explainer, top)
    for output in outputs:
        output.close()
    if failed and total > 1:
        typer.echo(f"{failed:,} of {total:,} images could not be read", err=True)
    if failed:
        raise typer.Exit(1)


def _say(*notes: str) -> None:
    for note in filter(None, notes):
        typer.echo(clean.block(f"note: {note}"), err=True)


def _check_given(images: Sequence[Path] | None, text: str | None, pictures: str) -> None:
    """Raises typer.BadParameter: neither an image nor a text, or an option for `pictures` where there are none."""
    if text is None and not images:
        raise typer.BadParameter("give a photograph, or a text: --text", param_hint="IMAGES")
    if text is not None and pictures == "--why":
        raise typer.BadParameter("a map shows where an image decides, not a text; leave out --text", param_hint="--why")
    if not images and pictures:
        raise typer.BadParameter("a page shows pictures; give one beside --text", param_hint=pictures)


def _opened(model: str, client: str | None, text: str | None, classes: str | None, names: str | None) -> Predictor:
    """The predictor as the options ask for it. Raises what `open_predictor`, `beside`, `asked_classes`, `recognizing`
    and `display_names` raise."""
    from fedlens.data.display_names import display_names
    from fedlens.inference.class_lists import asked_classes
    from fedlens.inference.predict import open_predictor

    predictor = open_predictor(model, client)
    if text is not None:
        predictor = predictor.beside(text)
    if classes is not None:
        predictor = predictor.recognizing(asked_classes(classes))
    return predictor if names is None else replace(predictor, display=display_names(names, predictor.class_names))


def _answers(
    predictor: Predictor, images: Sequence[Path], outputs: Sequence[Output], max_pixels: int
) -> Iterator[Answer | Unreadable]:
    """With views for as many images as an output shows."""
    side, most = max(output.views for output in outputs)
    yield from predictor.answers(images[:most], side=side, max_pixels=max_pixels)
    yield from predictor.answers(images[most:], max_pixels=max_pixels)


def _counted(answers: Iterable[Answer | Unreadable], total: int, *, shown: bool) -> Iterator[Answer | Unreadable]:
    """`answers`, with a bar if it is to be `shown`."""
    with progress_bar("reading pictures") if shown else nullcontext(lambda _done, _total: None) as progress:
        for done, answer in enumerate(answers, start=1):
            yield answer
            progress(done, total)


def _add(
    answer: Answer, outputs: Sequence[Output], predictor: Predictor, explainer: Explainer | None, top: int
) -> None:
    from fedlens.cli.prediction_outputs import Seen

    places = None
    if explainer is not None and answer.view is not None:
        places = explainer.map(answer.pixels, int(answer.logits.argmax()))
    seen = Seen(predictor.prediction(answer, top), answer.view, places)
    for output in outputs:
        output.add(seen)


def _fail(image: Path, problem: str, outputs: Sequence[Output]) -> None:
    typer.secho(clean.block(problem), fg=typer.colors.RED, err=True)
    for output in outputs:
        output.fail(image, problem.removeprefix(f"{image}: "))
