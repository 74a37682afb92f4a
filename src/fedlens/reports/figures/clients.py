"""Plots of a run's clients: their accuracies and their images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlens.core.clean import escape
from fedlens.core.labels import jensen_shannon, total_variation
from fedlens.data.labels import beside_unlabelled
from fedlens.reports.figures.base import COLOURS, GREY, GRID, SHADES, Figure, bar_style, blank
from fedlens.reports.means import Mean
from fedlens.tracking.intervals import wilson
from fedlens.tracking.summary import contributions, last_with

_MOST_BARS = 60
_MOST_LINES = 1000
"""Clients that a plot shows one by one; of more, which are more than its pixels, it shows how many are alike."""
_MOST_STEPS = 40
NEVER_SAMPLED, MALICIOUS = " (never sampled)", " (malicious)"


def client_accuracies(
    metrics: Sequence[Mapping[str, Any]], personal: bool = False, unit: str = "image"
) -> Figure | None:
    """Accuracy of every client in the last evaluation, in client order; a histogram for many clients."""
    evaluated = last_with(metrics, "clients")
    if evaluated is None:
        return None
    clients = evaluated["by_client"]
    return _accuracy_bars(clients, personal, unit) if len(clients) <= _MOST_BARS else _accuracy_histogram(clients)


def both_accuracies(metrics: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The clients of the last evaluation in which the shared model was evaluated as well."""
    evaluated = last_with(metrics, "clients") or {"by_client": []}
    return [client for client in evaluated["by_client"] if client.get("shared_accuracy") is not None]


def shared_against_personal(metrics: Sequence[Mapping[str, Any]]) -> Figure | None:
    """One point per client: above the diagonal its own model is better."""
    clients = both_accuracies(metrics)
    if not clients:
        return None
    figure = blank("accuracy of the shared model", "accuracy of its own model")
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line={"color": GRID}, hoverinfo="skip", showlegend=False)
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


def _accuracy_bars(clients: Sequence[Mapping[str, Any]], personal: bool, unit: str) -> Figure:
    """Bars with 95 % intervals over images or rows, and each client's majority-class floor."""
    figure = blank("clients", "accuracy")
    for name, colour, chosen in _by_training(clients):
        figure.add_bar(
            x=[escape(client["client"], quote=False) for client in chosen],
            y=[client["accuracy"] for client in chosen],
            name=name,
            marker_color=colour,
            error_y=_error_bars(chosen),
            customdata=[client["examples"] for client in chosen],
            hovertemplate=f"%{{x}}: %{{y:.1%}} of %{{customdata}} {unit}s<extra></extra>",
        )
    _floors(figure, clients, "own_majority" if personal else "majority")
    order = [escape(client["client"], quote=False) for client in clients]
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=order)
    return figure.update_yaxes(tickformat=".0%", range=[0, 1])


def _error_bars(clients: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    ends = [wilson(client["accuracy"], client["examples"]) or (client["accuracy"],) * 2 for client in clients]
    above = [high - client["accuracy"] for client, (_, high) in zip(clients, ends, strict=True)]
    below = [client["accuracy"] - low for client, (low, _) in zip(clients, ends, strict=True)]
    return {"type": "data", "array": above, "arrayminus": below, "thickness": 1, "width": 3, "color": GREY}


def _floors(figure: Figure, clients: Sequence[Mapping[str, Any]], key: str) -> None:
    """A mark on each bar; runs of earlier versions have none."""
    known = [client for client in clients if client.get(key) is not None]
    if known:
        figure.add_scatter(
            x=[escape(client["client"], quote=False) for client in known],
            y=[client[key] for client in known],
            name="majority class",
            mode="markers",
            marker={"symbol": "line-ew-open", "size": 24, "color": COLOURS[1], "line": {"width": 3}},
            hovertemplate="%{x}: majority class %{y:.1%}<extra></extra>",
        )


def _accuracy_histogram(clients: Sequence[Mapping[str, Any]]) -> Figure:
    """Clients by accuracy, in steps of 5 %; the last step includes 100 %."""
    figure = blank("accuracy", "clients").update_layout(barmode="stack", bargap=0)
    edges = np.linspace(0, 1, 21)
    steps = [f"{100 * low:.0f}–{100 * high:.0f} %" for low, high in pairwise(edges)]
    for name, colour, chosen in _by_training(clients):
        counts, _ = np.histogram([client["accuracy"] for client in chosen], edges)
        hover = f"%{{customdata}}: %{{y}} clients, {name}<extra></extra>"
        x = (edges[:-1] + edges[1:]) / 2
        figure.add_bar(x=x, y=counts, name=name, marker_color=colour, customdata=steps, hovertemplate=hover)
    return figure.update_xaxes(tickformat=".0%", range=[0, 1])


def _by_training(clients: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, list[Mapping[str, Any]]]]:
    """Clients included in the figures, and excluded ones by reason."""
    for name, apart, colour in (
        ("has trained", "", 0),
        ("never sampled", NEVER_SAMPLED, 7),
        ("malicious", MALICIOUS, 4),
    ):
        if chosen := [client for client in clients if set_apart(client) == apart]:
            yield name, COLOURS[colour], chosen


def set_apart(client: Mapping[str, Any]) -> str:
    """Why a client is excluded from the figures over clients; "" if it is included."""
    if client.get("malicious"):
        return MALICIOUS
    return "" if client["trained"] else NEVER_SAMPLED


def worth(metrics: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Mean contribution of every client, the lowest first, with 95 % intervals over rounds by Student's t."""
    told = contributions(metrics)
    means = {name: Mean.of(values) for name, values in told.items()}
    ordered = sorted(((name, mean) for name, mean in means.items() if mean), key=lambda one: one[1].value)
    if not ordered:
        return None
    figure = blank("client", "accuracy gained by its update")
    figure.add_bar(
        x=[escape(name, quote=False) for name, _ in ordered],
        y=[mean.value for _, mean in ordered],
        error_y={"type": "data", "array": [mean.half or 0 for _, mean in ordered], "thickness": 1, "color": GREY},
        marker_color=COLOURS[0],
        customdata=[len(told[name]) for name, _ in ordered],
        hovertemplate="%{x}: %{y:.2%}, mean of %{customdata} rounds<extra></extra>",
        showlegend=False,
    )
    return figure.update_xaxes(type="category").update_yaxes(tickformat=".1%")


def partition(held: Mapping[str, Any], unit: str = "image") -> Figure | None:
    """Training images by client and class: stacked bars, or a heat map if there are many of either. Of very many
    clients, how many of them hold how many images of a class."""
    if not held or not held["clients"]:
        return None
    missing = held.get("unlabelled", {})
    names, counts = beside_unlabelled(
        held["class_names"],
        np.array([splits["train"] for splits in held["clients"].values()]),
        [missing.get(name, 0) for name in held["clients"]],
    )
    classes = [escape(name, quote=False) for name in names]
    if len(counts) > _MOST_LINES:
        return _clients_by_images(counts, classes, unit)
    clients = [escape(name, quote=False) for name in held["clients"]]
    if len(clients) <= _MOST_BARS and len(classes) <= 20:
        figure = blank("client", f"training {unit}s").update_layout(barmode="stack")
        for number, name in enumerate(classes):
            hover = f"%{{x}}: %{{y}} × {name}<extra></extra>"
            style = bar_style(number)
            figure.add_bar(x=clients, y=counts[:, number], name=name, marker=style, hovertemplate=hover)
        return figure.update_xaxes(type="category")
    figure = blank("class", "client")
    hover = "%{y}: %{z} × %{x}<extra></extra>"
    figure.add_heatmap(z=counts, x=classes, y=clients, colorscale=SHADES, hovertemplate=hover)
    figure.update_layout(height=min(max(360, 12 * len(clients) + 140), 1600))
    return figure.update_xaxes(type="category").update_yaxes(type="category", autorange="reversed")


def _clients_by_images(counts: NDArray[np.int64], classes: Sequence[str], unit: str) -> Figure:
    """The number of clients by the number of images or rows of a class that they hold; counts: (clients, classes)."""
    most = int(counts.max())
    step = most // _MOST_STEPS + 1
    starts = range(0, most + 1, step)
    numbers = [np.bincount(column // step, minlength=len(starts)) for column in counts.T]
    names = [f"{start}–{start + step - 1}" if step > 1 else str(start) for start in starts]
    figure = blank("class", f"training {unit}s of a client")
    hover = f"%{{z}} clients hold %{{y}} {unit}s × %{{x}}<extra></extra>"
    figure.add_heatmap(z=np.stack(numbers, axis=1), x=classes, y=names, colorscale=SHADES, hovertemplate=hover)
    return figure.update_xaxes(type="category").update_yaxes(type="category")


def label_distances(held: Mapping[str, Any]) -> Figure | None:
    """Distance between the label distribution of each client's training images and that of all clients, in client
    order; a histogram for very many clients."""
    counts = {name: splits["train"] for name, splits in held.get("clients", {}).items() if sum(splits["train"])}
    if len(counts) < 2:
        return None
    rows = np.array(list(counts.values()))
    distances = {"total variation": total_variation, "Jensen-Shannon divergence": jensen_shannon}
    found = {what: distance(rows, rows.sum(axis=0)) for what, distance in distances.items()}
    if len(counts) > _MOST_LINES:
        return _distance_histogram(found)
    names = [escape(name, quote=False) for name in counts]
    figure = blank("client", "distance")
    for number, (what, values) in enumerate(found.items()):
        figure.add_bar(x=names, y=values, name=what, marker_color=COLOURS[number])
    return figure.update_xaxes(type="category").update_yaxes(range=[0, 1])


def _distance_histogram(found: Mapping[str, NDArray[np.float64]]) -> Figure:
    """Clients by distance, in steps of 0.025; found: kind of distance → of every client."""
    figure = blank("distance", "clients").update_layout(barmode="overlay", bargap=0)
    edges = np.linspace(0, 1, _MOST_STEPS + 1)
    for number, (what, values) in enumerate(found.items()):
        counts, _ = np.histogram(values, edges)
        hover = f"%{{x:.3f}}: %{{y}} clients, {what}<extra></extra>"
        x = (edges[:-1] + edges[1:]) / 2
        figure.add_bar(x=x, y=counts, name=what, marker_color=COLOURS[number], opacity=0.7, hovertemplate=hover)
    return figure.update_xaxes(range=[0, 1])
