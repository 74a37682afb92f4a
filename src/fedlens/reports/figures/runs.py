"""Plots that compare several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from fedlens.core.clean import escape
from fedlens.reports.figures.base import COLOURS, GREY, Figure, blank, curves, floor
from fedlens.reports.figures.rounds import VIRTUAL_TIME, series_of, timed
from fedlens.reports.plotted import Metrics, Trade, mean_curve
from fedlens.tracking.summary import last_with


def compared(runs: Mapping[str, Sequence[Mapping[str, Any]]], section: str, key: str) -> Figure:
    """An accuracy of several runs: over virtual time if all have a clock, else over rounds."""
    y = "accuracy"
    if all(line.get("virtual_seconds") is not None for metrics in runs.values() for line in metrics):
        times = {name: timed(metrics, section, key) for name, metrics in runs.items()}
        return _tall(_with_floor(curves(times, y, percent=True, x=VIRTUAL_TIME), runs, section))
    series = {name: series_of(metrics, section, key) for name, metrics in runs.items()}
    return _tall(_with_floor(curves(series, y, percent=True), runs, section))


def over_seeds(groups: Mapping[str, Sequence[Metrics]], section: str) -> Figure:
    """The mean accuracy of each group's runs by round; where there are enough seeds, with a band: the 95 % interval of
    the mean over seeds."""
    means = {label: mean_curve(runs, section) for label, runs in groups.items()}
    lines = {label: [(place, mean.value) for place, mean in points] for label, points in means.items()}
    figure = curves(lines, "accuracy", percent=True)
    for trace, points in zip(list(figure.data), [points for points in means.values() if points], strict=True):
        ends = [(place, mean.value - mean.half, mean.value + mean.half) for place, mean in points if mean.half]
        if ends:
            places, low, high = zip(*ends, strict=True)
            figure.add_scatter(
                x=[*places, *reversed(places)],
                y=[*low, *reversed(high)],
                fill="toself",
                mode="lines",
                fillcolor=trace.line.color,
                opacity=0.18,
                line={"width": 0},
                hoverinfo="skip",
                showlegend=False,
                name=trace.name,
            )
    return _tall(_with_floor(figure, {label: runs[0] for label, runs in groups.items()}, section))


def traded(points: Sequence[Trade], cost: str, labels: Sequence[str]) -> Figure:
    """Accuracy against what it costs: a point for each method, and a line through those that no other one beats in
    both. labels: all methods in their order, which gives each its colour in all plots."""
    figure = blank(cost, "accuracy")
    front = [one for one in points if one.best]
    figure.add_scatter(
        x=[one.cost.value for one in front],
        y=[one.accuracy.value for one in front],
        mode="lines",
        line={"color": GREY, "width": 2, "shape": "hv"},
        name="best for its cost",
        hoverinfo="skip",
    )
    for one in points:
        number = labels.index(one.label)
        figure.add_scatter(
            x=[one.cost.value],
            y=[one.accuracy.value],
            error_y={"type": "data", "array": [one.accuracy.half or 0], "thickness": 1.5},
            mode="markers",
            marker={"size": 11, "color": COLOURS[number % len(COLOURS)], "symbol": SYMBOLS[number // len(COLOURS) % 3]},
            name=escape(one.label),
        )
    figure.update_yaxes(tickformat=".0%", hoverformat=".1%").update_xaxes(rangemode="tozero")
    return _tall(figure)


SYMBOLS = ("circle", "square", "diamond")


def clients_of_two(pairs: Mapping[str, Mapping[str, tuple[float, float]]], base: str, labels: Sequence[str]) -> Figure:
    """A point for each client: its accuracy with `base`, and with another method. Above the line the other is better.
    pairs: the other method → client → both accuracies; labels: as of `traded`."""
    figure = blank(f"client accuracy, {escape(base)}", "client accuracy, other")
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line={"color": GREY, "dash": "dot"}, showlegend=False)
    figure.data[0].hoverinfo = "skip"
    for label, clients in pairs.items():
        number = labels.index(label)
        figure.add_scatter(
            x=[one for one, _ in clients.values()],
            y=[two for _, two in clients.values()],
            mode="markers",
            marker={"size": 9, "color": COLOURS[number % len(COLOURS)], "opacity": 0.8},
            text=[escape(name) for name in clients],
            hovertemplate="%{text}: %{x:.1%} and %{y:.1%}",
            name=escape(label),
        )
    figure.update_xaxes(tickformat=".0%").update_yaxes(tickformat=".0%")
    return _tall(figure)


def _with_floor(figure: Figure, runs: Mapping[str, Sequence[Mapping[str, Any]]], section: str) -> Figure:
    """Add the majority-class floor of the shared model, if all runs have the same."""
    found = {(last_with(metrics, section) or {}).get("majority") for metrics in runs.values()}
    return floor(figure, "majority class", found.pop()) if len(found) == 1 else figure


def compared_by_communication(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Test accuracy of several runs over the megabytes sent so far, in both directions."""
    series = {}
    for name, metrics in runs.items():
        sent = accumulate((line["bytes_up"] + line["bytes_down"]) / 1e6 for line in metrics)
        places = zip(sent, metrics, strict=True)
        series[name] = [(total, line["test"]["accuracy"]) for total, line in places if line["test"]]
    return _tall(_with_floor(curves(series, "accuracy", percent=True, x="megabytes sent"), runs, "test"))


def compared_by_privacy(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure | None:
    """Test accuracy of several runs over the ε spent so far; None where no run counts one."""
    series = {}
    for name, metrics in runs.items():
        spent = [(line.get("measures", {}).get("privacy/epsilon"), line["test"]) for line in metrics]
        points = [(value, test["accuracy"]) for value, test in spent if value is not None and test]
        if points:
            series[name] = points
    return _tall(curves(series, "accuracy", percent=True, x="ε spent")) if series else None


def _tall(figure: Figure) -> Figure:
    """Add space for a legend of two names per line below the curves."""
    return figure.update_layout(height=400 + 10 * len(figure.data))
