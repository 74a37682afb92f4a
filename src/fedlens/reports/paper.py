"""Figures for a paper, as SVG and PDF: methods over the rounds, against their cost, and two methods at every client."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlens.core.files import write_atomic, writing
from fedlens.core.fonts import lettering
from fedlens.reports.figures.base import COLOURS
from fedlens.reports.groups import Group, measure
from fedlens.reports.plotted import COSTS, Curve, Trade, at_clients, curves, trades

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT, LINE = 3.3, 2.0, 0.14
"""Inches: one column of the usual two-column styles; the height without the legend, and of each of its lines."""

STYLE = {
    "font.size": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "lines.linewidth": 1.2,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.linewidth": 0.4,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
    "svg.hashsalt": "fedlens",  # the same figure gives the same bytes
}
_LINE = 44
"""Letters in a line of the legend."""

STYLES = ("-", "--", ":", "-.")
MARKERS = "osD^vPX*"
FORMATS = ("svg", "pdf")


@dataclass(frozen=True)
class Look:
    """How a method looks in all figures. name: what matplotlib prints."""

    name: str
    colour: str
    style: str
    marker: str


Pair = tuple[float, float]
Draw = Callable[["Axes"], None]


def write_figures(groups: Sequence[Group], base: Group, folder: Path) -> list[Path]:
    """Write each figure for which there are data into `folder`, as SVG and as PDF; gives the files.

    Raises:
        ConfigError: they cannot be written.
    """
    written, families = [], lettering(group.label for group in groups).families
    for name, draw in _figures(groups, base):
        for form in FORMATS:
            path = folder / f"{name}.{form}"
            with writing("--figures", folder, "folder"):
                folder.mkdir(parents=True, exist_ok=True)
                write_atomic(path, _drawn(draw, form, families))
            written.append(path)
    return written


def _figures(groups: Sequence[Group], base: Group) -> Iterator[tuple[str, Draw]]:
    figure, letters = measure(groups).replace("_", " "), lettering(group.label for group in groups)
    looks = {
        group.label: Look(
            textwrap.fill(letters.plain(group.label), _LINE).replace("$", r"\$"),  # no formula
            COLOURS[number % len(COLOURS)],
            STYLES[number // len(COLOURS) % len(STYLES)],
            MARKERS[number % len(MARKERS)],
        )
        for number, group in enumerate(groups)
    }
    if means := curves(groups):
        yield "accuracy", partial(_curves, means=means, looks=looks, figure=figure)
    for cost, words in COSTS.items():
        if len(points := trades(groups, cost)) > 1:
            yield f"accuracy-{cost}", partial(_trades, points=points, looks=looks, cost=words, figure=figure)
    pairs = {group.label: at_clients(base, group) for group in groups if group is not base}
    if any(pairs.values()):
        yield "clients", partial(_clients, pairs=pairs, looks=looks, base=base.label)


def _drawn(draw: Draw, form: str, families: Sequence[str]) -> bytes:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {**STYLE, "font.family": list(families)}
    with mpl.rc_context(style):
        drawing = Figure(layout="constrained")
        axes = drawing.add_subplot()
        axes.grid(visible=True, alpha=0.4)
        draw(axes)
        lines = sum(label.count("\n") + 1 for label in axes.get_legend_handles_labels()[1])
        drawing.set_size_inches(WIDTH, HEIGHT + LINE * lines)
        drawing.legend(loc="outside upper left")
        file = io.BytesIO()
        drawing.savefig(file, format=form, metadata={"Date": None} if form == "svg" else {"CreationDate": None})
    return file.getvalue()


def _curves(axes: Axes, means: Mapping[str, Curve], looks: Mapping[str, Look], figure: str) -> None:
    for label, curve in means.items():
        look = looks[label]
        rounds, values = [place for place, _ in curve], [100 * mean.value for _, mean in curve]
        axes.plot(rounds, values, look.style, color=look.colour, label=look.name)
        halves = [100 * (mean.half or 0) for _, mean in curve]
        low, high = ([value + sign * half for value, half in zip(values, halves, strict=True)] for sign in (-1, 1))
        axes.fill_between(rounds, low, high, color=look.colour, alpha=0.18, linewidth=0)
    axes.set(xlabel="round", ylabel=f"{figure} (%)")


def _trades(axes: Axes, points: Sequence[Trade], looks: Mapping[str, Look], cost: str, figure: str) -> None:
    front = [(one.cost.value, 100 * one.accuracy.value) for one in points if one.best]
    axes.step(*zip(*front, strict=True), "-", where="post", color="0.6")
    for one in points:
        look = looks[one.label]
        place, half = (one.cost.value, 100 * one.accuracy.value), 100 * (one.accuracy.half or 0)
        axes.errorbar(*place, half, fmt=look.marker, color=look.colour, markersize=4, label=look.name)
    axes.set(xlabel=cost, ylabel=f"{figure} (%)")


def _clients(axes: Axes, pairs: Mapping[str, Mapping[str, Pair]], looks: Mapping[str, Look], base: str) -> None:
    for label, clients in pairs.items():
        if clients:
            look = looks[label]
            values = [[100 * value for value in column] for column in zip(*clients.values(), strict=True)]
            axes.plot(*values, look.marker, color=look.colour, markersize=3, label=look.name)
    ends = [*axes.get_xlim(), *axes.get_ylim()]
    axes.plot([min(ends), max(ends)], [min(ends), max(ends)], ":", color="0.6", label=f"as good as {looks[base].name}")
    axes.set(xlabel="client accuracy (%), dotted method", ylabel="client accuracy (%), other")
