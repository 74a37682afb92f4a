"""The page of `fedlens privacy show`: pictures made of what others see of a client, beside its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from textwrap import fill
from typing import TYPE_CHECKING

from torch import Tensor

from fedlens.build.privacy_show import Shown, View
from fedlens.core.clean import escape
from fedlens.core.files import write_atomic
from fedlens.core.words import count
from fedlens.errors import ConfigError
from fedlens.reports.page import page, paragraph
from fedlens.tracking.pictures import thumbnail

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLEAR, TRACES = 6.0, 2.0
"""dB above a picture of one colour from which a picture counts as clear, or as a trace. Not more than a guide: look."""

NOTES = (
    "Gradient inversion (Geiping et al. 2020): the attacker knows the model that the client got and its configuration, "
    "and searches for pictures whose gradient points as the update does. PSNR says how near they are to the client's.",
    "This is the easiest case: {images}, one local step, and the model before its first round. "
    "More images, more steps and later rounds make an attack harder; they are no protection, and stronger attacks than "
    "this one are known.",
    "A bad picture is no proof of privacy: it says that this attack failed. Only clipping with enough noise has a "
    "proof, and its number is ε. Noise is drawn from the seed here; a real run's noise cannot be computed.",
)

GIVEN_LABELS = "The bias of the last layer is not in the update, so the attacker was told the labels."


def write(shown: Shown, file: Path) -> None:
    """The page, or where the file's name ends in .png, a picture of it.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        if file.suffix.lower() == ".png":
            figure_of(shown).savefig(file, dpi=150)
        else:
            write_atomic(file, render(shown))
    except OSError as error:
        raise unwritable(file, error.strerror or str(error)) from error


def unwritable(file: Path, reason: str) -> ConfigError:
    return ConfigError(f"--out {file}: cannot be written ({reason}); give another file", code="unwritable", key="--out")


def render(shown: Shown) -> str:
    """The page as text."""
    images = count(len(shown.originals), "image")
    subtitle = (
        f"{images} of {escape(shown.client)} · model {escape(shown.config.model.name)} · a picture of one colour would "
        f"have a PSNR of {mean(shown.flat):.1f} dB"
    )
    own = _card("The client's own", "They never leave the client.", shown.originals, shown.labels, "")
    views = "".join([own, *(_card(one.title, one.told, *_found(one, shown)) for one in shown.views)])
    notes = [note.format(images=images) for note in NOTES] + ([] if shown.read_labels else [GIVEN_LABELS])
    box = f'<div class="box">{"".join(map(paragraph, notes))}</div>'
    sections = (f'<div class="views">{views}</div>', f"<h2>What this shows, and what not</h2>{box}")
    return page("What an update shows", subtitle, sections, plotted=False)


def figure_of(shown: Shown) -> Figure:
    """A column for each view, the client's own pictures first; a row for each picture."""
    from matplotlib.figure import Figure

    own = ("the client's own", shown.originals, [""] * len(shown.originals))
    views = [(one.title, one.found.pictures, [f"{value:.1f} dB" for value in one.found.psnr]) for one in shown.views]
    columns, rows = [own, *views], len(shown.originals)
    figure = Figure(figsize=(1.25 * len(columns), 1.45 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for place, (title, pictures, under) in enumerate(columns):
        axes[0][place].set_title(fill(title, 16), fontsize=8)
        for row, (picture, text) in enumerate(zip(pictures, under, strict=True)):
            axes[row][place].imshow(picture.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=1)
            axes[row][place].set(xticks=[], yticks=[])
            axes[row][place].set_xlabel(text, fontsize=8)
    return figure


def lines(shown: Shown) -> Iterator[str]:
    """The results for a terminal."""
    images = count(len(shown.originals), "image")
    yield f"{images} of {shown.client}, one step; one colour alone: {mean(shown.flat):.1f} dB"
    width = max(len(view.title) for view in shown.views)
    for view in shown.views:
        yield f"{view.title:{width}}  {mean(view.found.psnr):4.1f} dB  {verdict(view, shown)}"


def verdict(view: View, shown: Shown) -> str:
    """What the PSNRs mean."""
    better = [value - flat for value, flat in zip(view.found.psnr, shown.flat, strict=True)]
    if clear := sum(one >= CLEAR for one in better):
        return f"{clear} of {count(len(better), 'picture')} {'is' if clear == 1 else 'are'} clear"
    return "traces of the pictures" if max(better) >= TRACES else "nothing to see"


def _found(view: View, shown: Shown) -> tuple[Tensor, Sequence[str], str]:
    under = [f"{label} · {value:.1f} dB" for label, value in zip(view.labels, view.found.psnr, strict=True)]
    return view.found.pictures, under, f"{verdict(view, shown).capitalize()}. Cosine to the update: {view.cosine:.2f}."


def _card(title: str, told: str, pictures: Tensor, under: Sequence[str], result: str) -> str:
    tiles = "".join(
        f'<div><img src="{_uri(picture)}" alt="{escape(title)}: {escape(text)}"><span>{escape(text)}</span></div>'
        for picture, text in zip(pictures, under, strict=True)
    )
    verdict = f"<b>{escape(result)}</b> " if result else ""
    return (
        f'<figure class="plot"><h3>{escape(title)}</h3><div class="tiles">{tiles}</div>'
        f"<figcaption>{verdict}{escape(told)}</figcaption></figure>"
    )


def _uri(picture: Tensor) -> str:
    return thumbnail((picture * 255).round().byte().permute(1, 2, 0).numpy())
