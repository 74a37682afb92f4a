"""An accuracy in words, the same everywhere: with its interval, what it was measured on, and what needs no learning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedlens.core.words import count
from fedlens.tracking.summary import percent

UNUSED = "of the shared model, which no client uses"
"""What is added to the name of a figure of the shared model, where clients use models of their own."""

Figures = Mapping[str, Any]
"""A section of a line of metrics: test, validation or clients. Runs of earlier versions lack some of its keys."""


def with_interval(figures: Figures) -> str:
    """84.4 % (95 %: 82.0–86.5); without an interval the accuracy alone."""
    low, high = figures.get("accuracy_low"), figures.get("accuracy_high")
    accuracy = percent(figures.get("accuracy"))
    return accuracy if low is None or high is None else f"{accuracy} (95 %: {100 * low:.1f}–{100 * high:.1f})"


def measured_on(figures: Figures) -> str:
    """1,000 images; 410 images of 10 clients; "" where it is not recorded."""
    images = figures.get("examples")
    if images is None:
        return ""
    clients = figures.get("evaluated")
    return count(images, "image") + (f" of {count(clients, 'client')}" if clients is not None else "")


def majority(figures: Figures, personal: bool) -> float | None:
    """The majority-class floor of the models that the figures are about. `personal`: clients use models of their own,
    so that theirs is each client's own commonest class."""
    floor: float | None = figures.get("own_majority" if personal and "own_majority" in figures else "majority")
    return floor


def floors(figures: Figures, personal: bool = False) -> str:
    """chance 10.0 %, majority class 12.3 %; "" where neither is recorded."""
    own = " of each client" if personal and "own_majority" in figures else ""
    named = {"chance": figures.get("chance"), f"majority class{own}": majority(figures, personal)}
    return ", ".join(f"{name} {percent(floor)}" for name, floor in named.items() if floor is not None)


def basis(figures: Figures, personal: bool = False) -> str:
    """1,000 images; chance 10.0 %, majority class 12.3 %."""
    return "; ".join(filter(None, (measured_on(figures), floors(figures, personal))))


def in_full(figures: Figures, personal: bool = False) -> str:
    """84.4 % (95 %: 82.0–86.5), 1,000 images; chance 10.0 %, majority class 12.3 %."""
    return ", ".join(filter(None, (with_interval(figures), basis(figures, personal)))) if figures else percent(None)
