"""Plots of one run over its rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedlens.core.clean import escape
from fedlens.reports.figures.base import COLOURS, GREY, Figure, bar_style, blank, curves, floor, from_zero, over_rounds
from fedlens.tracking.clients import worst_clients
from fedlens.tracking.summary import edge_bytes, last_with
from fedlens.tracking.wording import majority

VIRTUAL_TIME = "virtual seconds"


def accuracy_curves(metrics: Sequence[Mapping[str, Any]], personal: bool = False) -> Figure:
    """`personal`: clients use their own models, whose floor is each client's own most frequent class."""
    evaluated = last_with(metrics, "clients") or {}
    figure = curves(
        {
            "test": series_of(metrics, "test", "accuracy"),
            "validation": series_of(metrics, "validation", "accuracy"),
            "client accuracy": series_of(metrics, "clients", "accuracy"),
            worst_clients(evaluated.get("evaluated")): series_of(metrics, "clients", "accuracy_worst_tenth"),
        },
        "accuracy",
        percent=True,
    )
    for name, accuracy, colour in _floors(metrics, personal):
        floor(figure, name, accuracy, colour)
    return figure


def _floors(metrics: Sequence[Mapping[str, Any]], personal: bool) -> list[tuple[str, float | None, str]]:
    """Chance, and the majority-class floors of the drawn curves, in the colours of these curves."""
    test, evaluated = last_with(metrics, "test") or {}, last_with(metrics, "clients") or {}
    return [
        ("chance", test.get("chance", evaluated.get("chance")), GREY),
        ("majority class, test", test.get("majority"), COLOURS[0]),
        ("majority class, clients", majority(evaluated, personal), COLOURS[2]),
    ]


def accuracy_over_time(metrics: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Accuracy over virtual time; None for a run without a clock."""
    series = {name: timed(metrics, name) for name in ("test", "validation")}
    return curves(series, "accuracy", percent=True, x=VIRTUAL_TIME) if any(series.values()) else None


def loss_curves(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    return curves(
        {
            "training": [(line["round"], line["train_loss"]) for line in metrics],
            "test": series_of(metrics, "test", "loss"),
            "validation": series_of(metrics, "validation", "loss"),
        },
        "loss",
    )


def update_norms(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    return from_zero(curves({"norm of the server's update": _column(metrics, "update_norm")}, "L2 norm"))


def measures(metrics: Sequence[Mapping[str, Any]], group: str) -> Figure:
    """The measured values of one group: those named `group`/…"""
    series: dict[str, list[tuple[int, float | None]]] = {}
    for line in metrics:
        for name, value in line.get("measures", {}).items():
            if name.startswith(f"{group}/"):
                series.setdefault(escape(name.partition("/")[2]), []).append((line["round"], value))
    return curves(series, escape(group))


def spent_privacy(metrics: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> Figure:
    """ε after each round, and the budget, where there is one."""
    spent = [(line["round"], line.get("measures", {}).get("privacy/epsilon")) for line in metrics]
    budget = config.get("privacy", {}).get("budget")
    limit = {"budget": [(number, budget) for number, _ in spent]} if budget else {}
    return from_zero(curves({"ε": spent, **limit}, "ε"))


def learning_rates(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    return from_zero(curves({"learning rate": _column(metrics, "lr")}, "learning rate"))


def communication(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """Cumulative megabytes: both directions stacked, so the upper edge is the sum; beside them those between the server
    and its edge aggregators."""
    rounds = [line["round"] for line in metrics]
    figure = blank("round", "MB since the start")
    directions = {"clients → server": "bytes_up", "server → clients": "bytes_down"}
    for colour, (name, key) in zip(COLOURS, directions.items(), strict=False):
        sent = np.cumsum([line[key] for line in metrics]) / 1e6
        mode = "lines+markers" if len(rounds) <= 30 else "lines"  # a single round is drawn as a point
        style = {"mode": mode, "line": {"color": colour, "width": 2}, "stackgroup": "sent"}
        figure.add_scatter(x=rounds, y=sent, name=name, hovertemplate="%{y:,.1f} MB", **style)
    if edge_bytes(metrics):
        sent = np.cumsum([sum(edge_bytes([line]) or (0,)) for line in metrics]) / 1e6
        line = {"color": COLOURS[2], "width": 2, "dash": "dot"}
        name = "server ⇄ edges"
        figure.add_scatter(x=rounds, y=sent, name=name, mode="lines", line=line, hovertemplate="%{y:,.1f} MB")
    return from_zero(over_rounds(figure, rounds[-1]))


def timing(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """Seconds of every round, phases stacked."""
    figure = blank("round", "seconds")
    for number, phase in enumerate(dict.fromkeys(phase for line in metrics for phase in line["seconds"])):
        seconds = [line["seconds"].get(phase, 0) for line in metrics]
        rounds = [line["round"] for line in metrics]
        figure.add_bar(x=rounds, y=seconds, name=escape(phase), marker=bar_style(number))
    return over_rounds(figure, metrics[-1]["round"]).update_layout(barmode="stack")


def staleness(metrics: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Staleness of the updates in each step; None for synchronous rounds."""
    found = [(line["round"], line["staleness"]) for line in metrics if line.get("staleness")]
    series = {name: [(number, steps[name]) for number, steps in found] for name in ("mean", "max")}
    return from_zero(curves(series, "steps of the server")) if found else None


def timed(metrics: Sequence[Mapping[str, Any]], section: str, key: str = "accuracy") -> list[tuple[float, float]]:
    """(virtual seconds, accuracy) of every evaluation."""
    evaluated = [line for line in metrics if line[section] and line.get("virtual_seconds") is not None]
    return [(line["virtual_seconds"], line[section][key]) for line in evaluated]


def series_of(metrics: Sequence[Mapping[str, Any]], section: str, key: str) -> list[tuple[int, float | None]]:
    return [(line["round"], line[section][key]) for line in metrics if line[section]]


def _column(metrics: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float | None]]:
    return [(line["round"], line[key]) for line in metrics]
