"""The accuracy of a run over its rounds, as a picture in an HTML page that runs no script.

Plotly's figures need 4.5 MB of script in every page, and show nothing where a notebook is only read.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from typing import Any

SECTIONS = {"test": "test", "validation": "validation", "client accuracy": "clients"}
"""Label → section of a metrics line."""

_COLOURS = {"test": "#0072B2", "validation": "#E69F00", "client accuracy": "#009E73"}
"""The report's colours for the same curves."""


class Curve:
    """Collects the accuracies of rounds, and draws them. Keeps two numbers a round and curve."""

    def __init__(self, metrics: Iterable[Mapping[str, Any]] = ()) -> None:
        """`metrics`: lines of the metrics file."""
        self._points: dict[str, list[tuple[int, float]]] = {label: [] for label in SECTIONS}
        self._chance: float | None = None
        for line in metrics:
            self.add(line)

    def add(self, line: Mapping[str, Any]) -> None:
        """Add the round of a metrics line."""
        for label, section in SECTIONS.items():
            found = line[section] or {}
            if found.get("accuracy") is not None:
                self._points[label].append((line["round"], found["accuracy"]))
                self._chance = found.get("chance", self._chance)

    def picture(self, num_rounds: int | None = None) -> str:
        """An `<img>` that contains the picture; empty if no round has been evaluated. `num_rounds`: the axis ends
        there."""
        drawn = {label: points for label, points in self._points.items() if points}
        if not drawn:
            return ""
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator, PercentFormatter

        figure = Figure(figsize=(7, 2.8), layout="constrained")
        axes = figure.add_subplot()
        for label, points in drawn.items():
            rounds, accuracies = zip(*points, strict=True)
            axes.plot(rounds, accuracies, label=label, color=_COLOURS[label], marker="." if len(rounds) <= 30 else "")
        if self._chance is not None:
            axes.axhline(self._chance, label="chance", color="grey", linestyle=":")
        last = num_rounds or max(points[-1][0] for points in drawn.values())
        axes.set(xlabel="round", ylabel="accuracy", ylim=(0, 1), xlim=(0.5, last + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(alpha=0.3)
        figure.legend(loc="outside right upper", frameon=False)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
        source = base64.b64encode(file.getvalue()).decode()
        return f'<img alt="accuracy by round" style="background: #fff" src="data:image/svg+xml;base64,{source}">'
