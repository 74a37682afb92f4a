"""Figures for trackers, drawn with matplotlib's objects (without pyplot, which has global state and windows)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedlens.core.fonts import Lettering, lettering
from fedlens.tracking.summary import named_confusion

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_LABELS = 40
"""Maximum number of axis labels; more would overlap."""


def to_image(figure: Figure) -> NDArray[np.uint8]:
    """`figure` as uint8 (H, W, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba(), dtype=np.uint8)[:, :, :3].copy()  # type: ignore[no-untyped-call]


def confusion_figure(confusion: NDArray[np.int64], class_names: Sequence[str]) -> Figure:
    """Heat map of `confusion` (classes, classes), each row normalised by its true class; counts in the cells."""
    from matplotlib.figure import Figure

    confusion, names = named_confusion(confusion, class_names)
    classes = len(names)
    side = float(np.clip(classes * 0.5, 4, 12))
    figure = Figure(figsize=(side + 1.5, side), layout="constrained")
    axes = figure.add_subplot()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    figure.colorbar(axes.imshow(shares, cmap="Blues", vmin=0, vmax=1), label="share of the true class")
    axes.set(xlabel="predicted", ylabel="true")
    if classes <= _MOST_LABELS:
        letters = lettering(names)
        labels, fonts = [_plain(name, letters) for name in names], list(letters.families)
        axes.set_xticks(range(classes), labels, rotation=90, fontfamily=fonts)
        axes.set_yticks(range(classes), labels, fontfamily=fonts)
    if classes <= 20:
        _write_counts(axes, confusion, shares)
    return figure


def predictions_figure(images: NDArray[np.uint8], truth: Sequence[str], predicted: Sequence[str]) -> Figure:
    """A grid of `images` (B, S, S, C), C = 1 or 3, with their predictions; wrong ones in red, with the true class."""
    from matplotlib.figure import Figure

    columns = min(len(images), 8)
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.7 * columns, 2.0 * rows), layout="constrained")
    letters = lettering((*truth, *predicted))
    for number, (image, true, guess) in enumerate(zip(images, truth, predicted, strict=True), start=1):
        axes = figure.add_subplot(rows, columns, number)
        axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
        axes.set_axis_off()
        right = true == guess
        title = guess if right else f"{guess}\n(is {true})"
        colour, fonts = "darkgreen" if right else "firebrick", list(letters.families)
        axes.set_title(_plain(title, letters), fontsize=8, color=colour, fontfamily=fonts)
    return figure


def _write_counts(axes: Axes, confusion: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    for (true, predicted), count in np.ndenumerate(confusion):
        if count:
            colour = "white" if shares[true, predicted] > 0.5 else "black"
            axes.text(predicted, true, str(count), ha="center", va="center", fontsize=7, color=colour)


def _plain(text: str, letters: Lettering) -> str:
    return letters.plain(text).replace("$", r"\$")  # matplotlib parses $…$ as mathematics
