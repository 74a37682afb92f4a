"""Lines of metrics files that earlier versions wrote, with the names that figures have now."""

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
"""Old names → names, of the figures over clients."""


def with_names_of_today(line: Mapping[str, Any]) -> dict[str, Any]:
    """`line` with the figures over clients under their names of today; what is no line of ours stays as it is."""
    clients = line.get("clients")
    if not isinstance(clients, Mapping):
        return dict(line)
    return {**line, "clients": {NAMES.get(name, name): value for name, value in clients.items()}}
