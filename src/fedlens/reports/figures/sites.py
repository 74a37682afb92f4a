"""Plots of several models at every site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedlens.core.clean import escape
from fedlens.reports.figures.base import COLOURS, GREY, SHADES, Figure, blank

_ROW = 28
"""Pixels for a site."""

_SYMBOLS = ("circle-open", "circle", "diamond", "line-ns-open")


def dumbbells(sites: Mapping[str, Mapping[str, float]], models: Sequence[str], ends: tuple[str, str]) -> Figure:
    """A row for each site, a mark for each model, and a line between the two models of `ends`. sites: name → model →
    accuracy; the first is drawn at the top."""
    figure = blank("accuracy on the site's own test images", "")
    names = [escape(name) for name in sites]
    for name, (start, end) in zip(names, ([own[end] for end in ends] for own in sites.values()), strict=True):
        figure.add_scatter(
            x=[start, end], y=[name, name], mode="lines", line={"color": GREY, "width": 3}, hoverinfo="skip",
            showlegend=False,
        )  # fmt: skip
    for number, model in enumerate(models):
        marker = {"color": COLOURS[number], "size": 11, "symbol": _SYMBOLS[number % len(_SYMBOLS)]}
        marker |= {"line": {"width": 2.5, "color": COLOURS[number]}}
        accuracies = [own[model] for own in sites.values()]
        figure.add_scatter(x=accuracies, y=names, name=escape(model), mode="markers", marker=marker, cliponaxis=False)
    figure.update_xaxes(tickformat=".0%", hoverformat=".1%")
    figure.update_yaxes(autorange="reversed", type="category")
    return figure.update_layout(height=140 + _ROW * len(sites), hovermode="y unified")


def crossed(rows: Mapping[str, Mapping[str, float]]) -> Figure:
    """A heat map: the accuracy of each row's model on each column's test images."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    figure = blank("test images of", "model of")
    values = [[row.get(name) for name in columns] for row in rows.values()]
    figure.add_heatmap(
        z=values,
        x=[escape(name) for name in columns],
        y=[escape(name) for name in rows],
        colorscale=SHADES,
        texttemplate="%{z:.0%}" if len(columns) <= 12 else None,
        hovertemplate="model of %{y}<br>images of %{x}<br>%{z:.1%}<extra></extra>",
        colorbar={"tickformat": ".0%", "outlinewidth": 0},
    )
    figure.update_xaxes(type="category").update_yaxes(autorange="reversed", type="category")
    return figure.update_layout(height=160 + _ROW * len(rows))
