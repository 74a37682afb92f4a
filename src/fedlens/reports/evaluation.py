"""A page that says how good a model is on labelled pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedlens.core.clean import escape
from fedlens.data.found import relative
from fedlens.inference.evaluate import Evaluated, Mistake, rows
from fedlens.reports.figures import classes
from fedlens.reports.page import page, plot, section, table, titled, warning
from fedlens.reports.sheet import bar, file_line, not_read, picture
from fedlens.tracking.summary import percent
from fedlens.tracking.wording import measured_on

_COLUMNS = ("class", "pictures", "recall", "most often taken for")


Views = Mapping[Path, NDArray[np.uint8]]
"""Of the mistakes: uint8 (S, S, 3)."""


def render(found: Evaluated, model: str, folder: str, notes: Sequence[str], views: Views) -> str:
    """The whole page. `model` and `folder`: what was evaluated, and on what."""
    unreadable = [(one.image, one.problem) for one in found.unreadable]
    parts = (_notes(notes), _confusion(found), _classes(found), _mistakes(found.mistakes, views), not_read(unreadable))
    return page("Evaluation", f"{escape(model)} on {escape(folder)}", parts, _cards(found))


def _cards(found: Evaluated) -> list[tuple[str, str]]:
    figures = found.figures
    low, high = figures["accuracy_low"], figures["accuracy_high"]
    interval = f"95\u00a0%: {100 * low:.1f}–{100 * high:.1f}"
    return [
        (percent(figures["accuracy"]), f"accuracy<br>{interval}<br>{measured_on(figures)}"),
        (percent(found.evaluation.balanced_accuracy), "balanced accuracy: mean recall of the classes with pictures"),
        (f"{found.evaluation.loss:.3f}", "loss: mean cross-entropy"),
    ]


def _notes(notes: Sequence[str]) -> str:
    return "".join(map(warning, notes))


def _confusion(found: Evaluated) -> str:
    matrix, names = found.evaluation.confusion, found.class_names
    which = f" The {classes.MOST_CLASSES} classes recognised worst." if len(names) > classes.MOST_CLASSES else ""
    caption = f"Rows are the truth, colours the shares of a row.{which}"
    return section(
        "What is taken for what",
        plot("Confusion matrix", caption, classes.confusion(matrix.tolist(), names), wide=True),
    )


def _classes(found: Evaluated) -> str:
    cells = [(row.name, f"{row.images:,}", percent(row.recall), row.taken_for) for row in rows(found)]
    return f"<h2>By class</h2>{table(_COLUMNS, cells)}"


def _mistakes(mistakes: Sequence[Mistake], views: Views) -> str:
    names = relative([one.image for one in mistakes])
    tiles = "".join(_tile(one, names[one.image], picture(views[one.image], one.predicted)) for one in mistakes)
    shown = f'<div class="sheet">{tiles}</div>' if mistakes else "<p>There are none.</p>"
    caption = "The model was surest of these, and wrong. The page holds small copies of them."
    return section("Mistakes", titled("Most confident mistakes", caption, shown, wide=True))


def _tile(one: Mistake, name: Path, shown: str) -> str:
    return (
        f"<figure>{shown}<figcaption><b>{escape(one.predicted)}</b> {bar(one.probability)}is {escape(one.true)}"
        f"{file_line(name, one.image)}</figcaption></figure>"
    )
