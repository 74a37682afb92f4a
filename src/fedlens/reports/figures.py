"""The plots of a report, as plotly figures on a transparent ground (the page sets ink and paper, light or dark)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from fedlens.federation.labels import jensen_shannon, total_variation
from fedlens.tracking.summary import last_with, named_confusion

Figure = Any
"""A plotly.graph_objects.Figure (plotly is imported when the first figure is made)."""

_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C6BB1", "#7F7F7F")
"""Okabe and Ito's colours, told apart with colour-blind eyes."""

_DASHES = ("solid", "dash", "dot")
"""When the colours have been through."""

_GOLDEN_ANGLE = 137.508
"""Degrees. Hues so far apart stay apart, however many follow."""

_PERCENT = (
    {"dtickrange": [0.009, None], "value": ".0%"},
    {"dtickrange": [0.0009, 0.009], "value": ".1%"},
    {"dtickrange": [None, 0.0009], "value": ".2%"},
)
"""As many decimals as the distance between two ticks needs (it is 1, 2 or 5 times a power of ten)."""

VIRTUAL_TIME = "virtual seconds"
_GRID = "rgba(128,128,128,0.22)"
_MOST_BARS = 60
MOST_CLASSES = 40
"""Of more classes than this, a confusion matrix shows those that were recognised worst."""


def accuracy_curves(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    return _curves(
        {
            "test": _series(metrics, "test", "accuracy"),
            "validation": _series(metrics, "validation", "accuracy"),
            "clients at home, mean": _series(metrics, "clients", "mean"),
            "clients at home, worst tenth": _series(metrics, "clients", "worst_tenth"),
        },
        "accuracy",
        percent=True,
    )


def accuracy_over_time(metrics: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Accuracy against the virtual clock; None for a run without one."""
    series = {name: timed(metrics, name) for name in ("test", "validation")}
    return _curves(series, "accuracy", percent=True, x=VIRTUAL_TIME) if any(series.values()) else None


def compared(runs: Mapping[str, Sequence[Mapping[str, Any]]], section: str, key: str) -> Figure:
    """An accuracy of several runs: against the virtual clock when all have one, else by round."""
    y = "accuracy"
    if all(line.get("virtual_seconds") is not None for metrics in runs.values() for line in metrics):
        times = {name: timed(metrics, section, key) for name, metrics in runs.items()}
        return _tall(_curves(times, y, percent=True, x=VIRTUAL_TIME))
    return _tall(_curves({name: _series(metrics, section, key) for name, metrics in runs.items()}, y, percent=True))


def compared_by_traffic(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Test accuracy of several runs for the megabytes that were moved until then, in both directions."""
    series = {}
    for name, metrics in runs.items():
        moved = accumulate((line["bytes_up"] + line["bytes_down"]) / 1e6 for line in metrics)
        places = zip(moved, metrics, strict=True)
        series[name] = [(total, line["test"]["accuracy"]) for total, line in places if line["test"]]
    return _tall(_curves(series, "accuracy", percent=True, x="megabytes moved"))


def timed(metrics: Sequence[Mapping[str, Any]], section: str, key: str = "accuracy") -> list[tuple[float, float]]:
    """(virtual seconds, accuracy) of every evaluation."""
    evaluated = [line for line in metrics if line[section] and line.get("virtual_seconds") is not None]
    return [(line["virtual_seconds"], line[section][key]) for line in evaluated]


def staleness(metrics: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Of the updates of each step; None for synchronous rounds."""
    found = [(line["round"], line["staleness"]) for line in metrics if line.get("staleness")]
    series = {name: [(number, steps[name]) for number, steps in found] for name in ("mean", "max")}
    return _from_zero(_curves(series, "steps of the server")) if found else None


def loss_curves(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    return _curves(
        {
            "training": [(line["round"], line["train_loss"]) for line in metrics],
            "test": _series(metrics, "test", "loss"),
            "validation": _series(metrics, "validation", "loss"),
        },
        "loss",
    )


def update_norms(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    return _from_zero(_curves({"norm of the server's update": _column(metrics, "update_norm")}, "L2 norm"))


def measures(metrics: Sequence[Mapping[str, Any]], group: str) -> Figure:
    """The measured numbers of one group: those named `group`/…"""
    curves: dict[str, list[tuple[int, float | None]]] = {}
    for line in metrics:
        for name, value in line.get("measures", {}).items():
            if name.startswith(f"{group}/"):
                curves.setdefault(escape(name.partition("/")[2]), []).append((line["round"], value))
    return _curves(curves, escape(group))


def learning_rates(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    return _from_zero(_curves({"learning rate": _column(metrics, "lr")}, "learning rate"))


def communication(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """Megabytes moved since the start, by direction."""
    rounds = [line["round"] for line in metrics]
    totals = {
        "clients → server": np.cumsum([line["bytes_up"] for line in metrics]) / 1e6,
        "server → clients": np.cumsum([line["bytes_down"] for line in metrics]) / 1e6,
    }
    named = {name: list(zip(rounds, total.tolist(), strict=True)) for name, total in totals.items()}
    return _from_zero(_curves(named, "MB since the start"))


def timing(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """Seconds of every round, phases stacked."""
    figure = _figure("round", "seconds")
    for number, phase in enumerate(dict.fromkeys(phase for line in metrics for phase in line["seconds"])):
        seconds = [line["seconds"].get(phase, 0) for line in metrics]
        colour = _COLOURS[number % len(_COLOURS)]
        figure.add_bar(x=[line["round"] for line in metrics], y=seconds, name=escape(phase), marker_color=colour)
    return _over_rounds(figure, metrics[-1]["round"]).update_layout(barmode="stack")


def client_accuracies(metrics: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Accuracy of every client at home in the last evaluation, worst first; a histogram for many clients."""
    evaluated = last_with(metrics, "clients")
    if evaluated is None:
        return None
    clients = sorted(evaluated["by_client"], key=lambda client: client["accuracy"])
    return _accuracy_bars(clients) if len(clients) <= _MOST_BARS else _accuracy_histogram(clients)


def both_accuracies(metrics: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The clients of the last evaluation at home that tried the shared model beside their own."""
    evaluated = last_with(metrics, "clients") or {"by_client": []}
    return [client for client in evaluated["by_client"] if client.get("shared_accuracy") is not None]


def shared_against_personal(metrics: Sequence[Mapping[str, Any]]) -> Figure | None:
    """A point a client: above the line its own model is the better one."""
    clients = both_accuracies(metrics)
    if not clients:
        return None
    figure = _figure("accuracy of the shared model", "accuracy of its own model")
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line={"color": _GRID}, hoverinfo="skip", showlegend=False)
    for name, colour, chosen in _by_training(clients):
        figure.add_scatter(
            x=[client["shared_accuracy"] for client in chosen],
            y=[client["accuracy"] for client in chosen],
            name=name,
            mode="markers",
            marker={"color": colour, "size": 9, "opacity": 0.7},
            text=[escape(client["client"], quote=False) for client in chosen],
            hovertemplate="%{text}: shared %{x:.1%}, its own %{y:.1%}<extra></extra>",
        )
    return figure.update_xaxes(tickformat=".0%").update_yaxes(tickformat=".0%")


def _accuracy_bars(clients: Sequence[Mapping[str, Any]]) -> Figure:
    figure = _figure("clients", "accuracy")
    for name, colour, chosen in _by_training(clients):
        figure.add_bar(
            x=[escape(client["client"], quote=False) for client in chosen],
            y=[client["accuracy"] for client in chosen],
            name=name,
            marker_color=colour,
            customdata=[client["examples"] for client in chosen],
            hovertemplate="%{x}: %{y:.1%} of %{customdata} images<extra></extra>",
        )
    order = [escape(client["client"], quote=False) for client in clients]
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=order)
    return figure.update_yaxes(tickformat=".0%", range=[0, 1])


def _accuracy_histogram(clients: Sequence[Mapping[str, Any]]) -> Figure:
    """Clients by accuracy, in steps of 5 %; the last step includes 100 %."""
    figure = _figure("accuracy", "clients").update_layout(barmode="stack", bargap=0)
    edges = np.linspace(0, 1, 21)
    steps = [f"{100 * low:.0f}–{100 * high:.0f} %" for low, high in pairwise(edges)]
    for name, colour, chosen in _by_training(clients):
        counts, _ = np.histogram([client["accuracy"] for client in chosen], edges)
        hover = f"%{{customdata}}: %{{y}} clients, {name}<extra></extra>"
        x = (edges[:-1] + edges[1:]) / 2
        figure.add_bar(x=x, y=counts, name=name, marker_color=colour, customdata=steps, hovertemplate=hover)
    return figure.update_xaxes(tickformat=".0%", range=[0, 1])


def _by_training(clients: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, list[Mapping[str, Any]]]]:
    for name, colour, trained in (("has trained", _COLOURS[0], True), ("never sampled", _COLOURS[7], False)):
        yield name, colour, [client for client in clients if client["trained"] is trained]


def partition(held: Mapping[str, Any]) -> Figure | None:
    """Training images by client and class: stacked bars, or a heat map when there are many of either."""
    if not held or not held["clients"]:
        return None
    clients = [escape(name, quote=False) for name in held["clients"]]
    classes = [escape(name, quote=False) for name in held["class_names"]]
    counts = np.array([splits["train"] for splits in held["clients"].values()])
    if len(clients) <= _MOST_BARS and len(classes) <= 20:
        figure = _figure("client", "training images").update_layout(barmode="stack")
        for number, name in enumerate(classes):
            hover = f"%{{x}}: %{{y}} × {name}<extra></extra>"
            colour = _class_colour(number)
            figure.add_bar(x=clients, y=counts[:, number], name=name, marker_color=colour, hovertemplate=hover)
        return figure.update_xaxes(type="category")
    figure = _figure("class", "client")
    hover = "%{y}: %{z} × %{x}<extra></extra>"
    figure.add_heatmap(z=counts, x=classes, y=clients, colorscale="Blues", hovertemplate=hover)
    return figure.update_xaxes(type="category").update_yaxes(type="category", autorange="reversed")


def label_distances(held: Mapping[str, Any]) -> Figure | None:
    """How far the labels of every client's training images are from everybody's, the farthest first."""
    counts = {name: splits["train"] for name, splits in held.get("clients", {}).items() if sum(splits["train"])}
    if len(counts) < 2:
        return None
    rows = np.array(list(counts.values()))
    distances = {"total variation": total_variation, "Jensen-Shannon divergence": jensen_shannon}
    found = {what: distance(rows, rows.sum(axis=0)) for what, distance in distances.items()}
    order = np.argsort(-found["total variation"], kind="stable")
    names = [escape(name, quote=False) for name in counts]
    figure = _figure("client", "distance")
    for number, (what, values) in enumerate(found.items()):
        shown = [names[index] for index in order]
        figure.add_bar(x=shown, y=values[order], name=what, marker_color=_COLOURS[number])
    return figure.update_xaxes(type="category").update_yaxes(range=[0, 1])


def confusion(matrix: Sequence[Sequence[int]], class_names: Sequence[str]) -> Figure:
    """Shares of each true class by prediction, counts in the cells; of many classes, those recognised worst."""
    counts, names = _worst_classes(np.array(matrix), class_names)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = _figure("predicted", "true").add_heatmap(
        z=shares,
        x=names,
        y=names,
        zmin=0,
        zmax=1,
        colorscale="Blues",
        colorbar={"tickformat": ".0%", "thickness": 12},
        customdata=counts,
        hovertemplate="true: %{y}<br>predicted: %{x}<br>%{customdata} images, %{z:.1%}<extra></extra>",
    )
    if len(names) <= 20:
        figure.update_traces(text=np.where(counts > 0, counts.astype(str), ""), texttemplate="%{text}")
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_yaxes(type="category", showgrid=False, autorange="reversed")
    return figure.update_layout(height=max(420, 22 * len(names) + 140))


def recalls(matrix: Sequence[Sequence[int]], class_names: Sequence[str]) -> Figure:
    """Share of each class' images that were recognised, worst first."""
    counts, names = _worst_classes(np.array(matrix), class_names)
    totals = counts.sum(axis=1)
    shares = np.diag(counts) / np.maximum(totals, 1)
    order = [index for index in np.argsort(shares, kind="stable") if totals[index]]
    figure = _figure("recall", "").add_bar(
        x=shares[order],
        y=[names[index] for index in order],
        orientation="h",
        marker_color=_COLOURS[0],
        customdata=totals[order],
        hovertemplate="%{y}: %{x:.1%} of %{customdata} images<extra></extra>",
    )
    figure.update_xaxes(tickformat=".0%", range=[0, 1])
    figure.update_yaxes(type="category", autorange="reversed")
    return figure.update_layout(height=max(420, 22 * len(names) + 140))


def _worst_classes(counts: Any, class_names: Sequence[str]) -> tuple[Any, list[str]]:
    """All classes when they are few; else the `MOST_CLASSES` with the lowest recall, by label."""
    counts, plain = named_confusion(counts, class_names)
    names = [escape(name, quote=False) for name in plain]
    if len(counts) <= MOST_CLASSES:
        return counts, names
    totals = counts.sum(axis=1)
    shares = np.where(totals > 0, np.diag(counts) / np.maximum(totals, 1), np.inf)
    worst = np.sort(np.argsort(shares, kind="stable")[:MOST_CLASSES])
    return counts[np.ix_(worst, worst)], [names[index] for index in worst]


def _curves(
    series: Mapping[str, Sequence[tuple[float, float | None]]], y: str, percent: bool = False, x: str = "round"
) -> Figure:
    figure = _figure(x, y)
    for number, (name, points) in enumerate(series.items()):
        if points:
            places, values = zip(*points, strict=True)
            mode = "lines+markers" if len(points) <= 30 else "lines"
            turn, colour = divmod(number, len(_COLOURS))
            line = {"color": _COLOURS[colour], "width": 2, "dash": _DASHES[turn % len(_DASHES)]}
            figure.add_scatter(x=places, y=values, name=escape(name), mode=mode, line=line)
    if percent:
        figure.update_yaxes(tickformatstops=_PERCENT, hoverformat=".1%", rangemode="nonnegative")
    if x != "round":
        return figure
    return _over_rounds(figure, max((points[-1][0] for points in series.values() if points), default=0))


def _tall(figure: Figure) -> Figure:
    """With room for the curves below a legend of two names a line."""
    return figure.update_layout(height=400 + 10 * len(figure.data))


def _from_zero(figure: Figure) -> Figure:
    """For what is never negative: a constant is no line in the middle of nowhere."""
    return figure.update_yaxes(rangemode="tozero")


def _over_rounds(figure: Figure, last: float) -> Figure:
    """Hovering shows a whole round; no ticks between rounds."""
    return figure.update_layout(hovermode="x unified").update_xaxes(dtick=1 if last <= 10 else None)


def _series(metrics: Sequence[Mapping[str, Any]], section: str, key: str) -> list[tuple[int, float | None]]:
    return [(line["round"], line[section][key]) for line in metrics if line[section]]


def _column(metrics: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float | None]]:
    return [(line["round"], line[key]) for line in metrics]


def _class_colour(number: int) -> str:
    """A class' colour depends on its label alone, so that pages of several runs can be compared."""
    return f"hsl({_GOLDEN_ANGLE * number % 360:.0f}, 55%, {48 if number % 2 else 64}%)"


def _figure(x: str, y: str) -> Figure:
    import plotly.graph_objects as go

    axis = {"gridcolor": _GRID, "zerolinecolor": _GRID, "linecolor": _GRID, "automargin": True}
    return go.Figure(
        layout={
            "template": "none",
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": "system-ui, sans-serif", "size": 13},
            "margin": {"l": 60, "r": 20, "t": 20, "b": 50},
            "height": 360,
            "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
            "hoverlabel": {"bgcolor": "#ffffff", "font": {"color": "#222222"}},
            "xaxis": {"title": {"text": x, "standoff": 10}, **axis},
            "yaxis": {"title": {"text": y, "standoff": 10}, **axis},
        }
    )
