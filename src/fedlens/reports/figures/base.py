"""Common parts of the plots in a report: colours, axes, curves over rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedlens.core.clean import escape

Figure = Any
"""A plotly.graph_objects.Figure (plotly is imported when the first figure is made)."""

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C6BB1", "#7F7F7F")
"""The palette of Okabe and Ito, which colour-blind readers can distinguish."""

_DASHES = ("solid", "dash", "dot")
"""Line styles used after all colours have been used once."""

_PATTERNS = ("", "/", ".")
"""Bar patterns used after all colours have been used once: more than eight colours cannot be distinguished by
everybody."""

SHADES = ((0.0, "rgba(0,114,178,0)"), (1.0, "rgba(0,114,178,0.75)"))
"""Colours of a heat map, from the page's background to blue: the page's text is legible on all of them, light or
dark."""

_PERCENT = (
    {"dtickrange": [0.009, None], "value": ".0%"},
    {"dtickrange": [0.0009, 0.009], "value": ".1%"},
    {"dtickrange": [None, 0.0009], "value": ".2%"},
)
"""As many decimals as the tick distance requires (it is 1, 2 or 5 times a power of ten)."""

GREY = "rgba(128,128,128,0.9)"
GRID = "rgba(128,128,128,0.22)"
_PAPER = "rgba(255,255,255,0.6)"


def blank(x: str, y: str) -> Figure:
    import plotly.graph_objects as go

    axis = {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": GRID, "automargin": True}
    return go.Figure(
        layout={
            "template": "none",
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": "system-ui, sans-serif", "size": 13},
            "margin": {"l": 60, "r": 20, "t": 20, "b": 50},
            "height": 360,
            "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0, "traceorder": "normal"},
            "hoverlabel": {"bgcolor": "#ffffff", "font": {"color": "#222222"}},
            "xaxis": {"title": {"text": x, "standoff": 10}, **axis},
            "yaxis": {"title": {"text": y, "standoff": 10}, **axis},
        }
    )


def curves(
    series: Mapping[str, Sequence[tuple[float, float | None]]], y: str, percent: bool = False, x: str = "round"
) -> Figure:
    figure = blank(x, y)
    for number, (name, points) in enumerate(series.items()):
        if points:
            places, values = zip(*points, strict=True)
            mode = "lines+markers" if len(points) <= 30 else "lines"
            turn, colour = divmod(number, len(COLOURS))
            line = {"color": COLOURS[colour], "width": 2, "dash": _DASHES[turn % len(_DASHES)]}
            figure.add_scatter(x=places, y=values, name=escape(name), mode=mode, line=line)
    if percent:
        figure.update_yaxes(tickformatstops=_PERCENT, hoverformat=".1%", rangemode="nonnegative")
    if x != "round":
        return figure
    return over_rounds(figure, max((points[-1][0] for points in series.values() if points), default=0))


def floor(figure: Figure, name: str, accuracy: float | None, colour: str = GREY) -> Figure:
    """Add a dotted line at an accuracy that needs no learning, over the full width."""
    places = [place for trace in figure.data for place in trace.x]
    if accuracy is not None and places:
        line = {"color": colour, "width": 1.5, "dash": "dot"}
        ends = [min(places), max(places)]
        figure.add_scatter(x=ends, y=[accuracy] * 2, name=name, mode="lines", line=line, hoverinfo="skip")
    return figure


def from_zero(figure: Figure) -> Figure:
    """Start the axis at zero, for non-negative values: without this, a constant would be in the middle of an arbitrary
    range."""
    return figure.update_yaxes(rangemode="tozero")


def over_rounds(figure: Figure, last: float) -> Figure:
    """Hovering shows all values of a round; no ticks between rounds."""
    return figure.update_layout(hovermode="x unified").update_xaxes(dtick=1 if last <= 10 else None)


def bar_style(number: int) -> dict[str, Any]:
    """The marker for the bars of series `number`. Up to 24 differ in colour or pattern. It depends only on the number,
    so a class has the same marker in the pages of several runs."""
    turn, colour = divmod(number, len(COLOURS))
    line = {"color": _PAPER, "width": 0.5}  # separates neighbours of similar lightness
    pattern = {"shape": _PATTERNS[turn % len(_PATTERNS)], "fgcolor": "#ffffff", "size": 6, "solidity": 0.4}
    return {"color": COLOURS[colour], "line": line, "pattern": {**pattern, "fillmode": "overlay"}}
