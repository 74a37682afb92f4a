"""Plots of a run's classes: confusion matrix and recall."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedlens.core.clean import escape
from fedlens.reports.figures.base import COLOURS, SHADES, Figure, blank
from fedlens.tracking.summary import named_confusion

MOST_CLASSES = 40
"""With more classes, a confusion matrix shows those with the lowest recall."""


def confusion(matrix: Sequence[Sequence[int]], class_names: Sequence[str], unit: str = "image") -> Figure:
    """Predictions as shares of each true class, counts in the cells; with many classes, those with the lowest
    recall."""
    counts, names = _worst_classes(np.array(matrix), class_names)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = blank("predicted", "true").add_heatmap(
        z=shares,
        x=names,
        y=names,
        zmin=0,
        zmax=1,
        colorscale=SHADES,
        colorbar={"tickformat": ".0%", "thickness": 12},
        customdata=counts,
        hovertemplate=f"true: %{{y}}<br>predicted: %{{x}}<br>%{{customdata}} {unit}s, %{{z:.1%}}<extra></extra>",
    )
    if len(names) <= 20:
        figure.update_traces(text=np.where(counts > 0, counts.astype(str), ""), texttemplate="%{text}")
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_yaxes(type="category", showgrid=False, autorange="reversed")
    return figure.update_layout(height=max(420, 22 * len(names) + 140))


def recalls(matrix: Sequence[Sequence[int]], class_names: Sequence[str], unit: str = "image") -> Figure:
    """Recall of each class, lowest first."""
    counts, names = _worst_classes(np.array(matrix), class_names)
    totals = counts.sum(axis=1)
    shares = np.diag(counts) / np.maximum(totals, 1)
    order = [index for index in np.argsort(shares, kind="stable") if totals[index]]
    figure = blank("recall", "").add_bar(
        x=shares[order],
        y=[names[index] for index in order],
        orientation="h",
        marker_color=COLOURS[0],
        customdata=totals[order],
        hovertemplate=f"%{{y}}: %{{x:.1%}} of %{{customdata}} {unit}s<extra></extra>",
    )
    figure.update_xaxes(tickformat=".0%", range=[0, 1])
    figure.update_yaxes(type="category", autorange="reversed")
    return figure.update_layout(height=max(420, 22 * len(names) + 140))


def _worst_classes(counts: Any, class_names: Sequence[str]) -> tuple[Any, list[str]]:
    """All classes if there are few; else the `MOST_CLASSES` with the lowest recall, by label."""
    counts, plain = named_confusion(counts, class_names)
    names = [escape(name, quote=False) for name in plain]
    if len(counts) <= MOST_CLASSES:
        return counts, names
    totals = counts.sum(axis=1)
    shares = np.where(totals > 0, np.diag(counts) / np.maximum(totals, 1), np.inf)
    worst = np.sort(np.argsort(shares, kind="stable")[:MOST_CLASSES])
    return counts[np.ix_(worst, worst)], [names[index] for index in worst]
