"""Plots of several runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from fedlens.reports.figures.base import Figure, curves
from fedlens.reports.figures.rounds import VIRTUAL_TIME, series_of, timed


def compared(runs: Mapping[str, Sequence[Mapping[str, Any]]], section: str, key: str) -> Figure:
    """An accuracy of several runs: against the virtual clock when all have one, else by round."""
    y = "accuracy"
    if all(line.get("virtual_seconds") is not None for metrics in runs.values() for line in metrics):
        times = {name: timed(metrics, section, key) for name, metrics in runs.items()}
        return _tall(curves(times, y, percent=True, x=VIRTUAL_TIME))
    return _tall(curves({name: series_of(metrics, section, key) for name, metrics in runs.items()}, y, percent=True))


def compared_by_traffic(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Test accuracy of several runs for the megabytes that were moved until then, in both directions."""
    series = {}
    for name, metrics in runs.items():
        moved = accumulate((line["bytes_up"] + line["bytes_down"]) / 1e6 for line in metrics)
        places = zip(moved, metrics, strict=True)
        series[name] = [(total, line["test"]["accuracy"]) for total, line in places if line["test"]]
    return _tall(curves(series, "accuracy", percent=True, x="megabytes moved"))


def _tall(figure: Figure) -> Figure:
    """With room for the curves below a legend of two names a line."""
    return figure.update_layout(height=400 + 10 * len(figure.data))
