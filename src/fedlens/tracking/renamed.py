"""Converts lines of metrics files from earlier versions to the current names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMES = {
    "mean": "accuracy",
    "mean_over_examples": "accuracy_over_examples",
    "worst_tenth": "accuracy_worst_tenth",
    "best_tenth": "accuracy_best_tenth",
    "deviation": "accuracy_deviation",
    "shared_mean": "shared_accuracy",
    "never_sampled_mean": "never_sampled_accuracy",
}
"""Old name → current name, of the figures over clients."""


def with_names_of_today(line: Mapping[str, Any]) -> dict[str, Any]:
    """`line` with the current names of the figures over clients; other content is unchanged."""
    clients = line.get("clients")
    if not isinstance(clients, Mapping):
        return dict(line)
    return {**line, "clients": {NAMES.get(name, name): value for name, value in clients.items()}}
