"""Texts for accuracies, the same in all outputs: with interval, number of images, and floors that need no learning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fedlens.core.words import count
from fedlens.tracking.summary import percent

UNUSED = "of the shared model, which no client uses"
"""Suffix for figures of the shared model if clients use their own models."""

Figures = Mapping[str, Any]
"""A section of a metrics line: test, validation or clients. Runs of earlier versions lack some keys."""


def with_interval(figures: Figures) -> str:
    """84.4 % (95 %: 82.0–86.5); only the accuracy if there is no interval."""
    low, high = figures.get("accuracy_low"), figures.get("accuracy_high")
    accuracy = percent(figures.get("accuracy"))
    return accuracy if low is None or high is None else f"{accuracy} (95 %: {100 * low:.1f}–{100 * high:.1f})"


def measured_on(figures: Figures, unit: str = "image") -> str:
    """1,000 images; 410 images of 10 clients; "" if not recorded. `unit`: as `RunDir.unit`."""
    examples = figures.get("examples")
    if examples is None:
        return ""
    clients = figures.get("evaluated")
    return count(examples, unit) + (f" of {count(clients, 'client')}" if clients is not None else "")


def majority(figures: Figures, personal: bool) -> float | None:
    """The majority-class floor for the evaluated models. `personal`: clients use their own models, so the floor uses
    each client's own most frequent class."""
    floor: float | None = figures.get("own_majority" if personal and "own_majority" in figures else "majority")
    return floor


def floors(figures: Figures, personal: bool = False) -> str:
    """chance 10.0 %, majority class 12.3 %; "" if neither is recorded."""
    own = " of each client" if personal and "own_majority" in figures else ""
    named = {"chance": figures.get("chance"), f"majority class{own}": majority(figures, personal)}
    return ", ".join(f"{name} {percent(floor)}" for name, floor in named.items() if floor is not None)


def basis(figures: Figures, personal: bool = False, unit: str = "image") -> str:
    """1,000 images; chance 10.0 %, majority class 12.3 %."""
    return "; ".join(filter(None, (measured_on(figures, unit), floors(figures, personal))))


def in_full(figures: Figures, personal: bool = False, unit: str = "image") -> str:
    """84.4 % (95 %: 82.0–86.5), 1,000 images; chance 10.0 %, majority class 12.3 %."""
    if not figures:
        return percent(None)
    return ", ".join(filter(None, (with_interval(figures), basis(figures, personal, unit))))


def epsilon(value: float | None) -> str:
    """3.21; ∞ without noise, which metrics files store as null."""
    return "∞" if value is None or math.isinf(value) else f"{value:.3g}"


def spent_privacy(value: float | None, config: Mapping[str, Any]) -> str:
    """ε = 3.21 at δ = 1e-05, for whole clients; `config`: the run's configuration, by which it may be single images."""
    privacy = config.get("privacy", {})
    whose = "single images, the largest of the clients" if privacy.get("mode") == "example" else "whole clients"
    told = f"ε = {epsilon(value)} at δ = {privacy.get('delta', math.nan):g}, for {whose}"
    return claimed(told, insecure=privacy.get("insecure_seed") is not None)


def claimed(told: str, *, insecure: bool) -> str:
    """What is told of a run's privacy; of noise that can be foretold, that there is none."""
    return f"NONE: privacy.insecure_seed is set (else {told})" if insecure else told
