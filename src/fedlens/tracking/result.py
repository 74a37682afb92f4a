"""The final figures of a run, as the terminal shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedlens.core.words import count
from fedlens.tracking.clients import worst_clients
from fedlens.tracking.run_dir import RunDir, configuration
from fedlens.tracking.summary import (
    best_round,
    duration,
    edge_bytes,
    last_with,
    percent,
    saved_of_whole,
    time_of_rounds,
)
from fedlens.tracking.wording import UNUSED, in_full, spent_privacy, with_interval

Metrics = Sequence[Mapping[str, Any]]


def result_lines(metrics: Metrics, folder: RunDir, personal: bool = False) -> dict[str, str]:
    """The figures by their labels. `metrics`: the lines of the metrics file; `personal`: clients use their own models,
    whose figures then come first."""
    shared, clients = _shared(metrics, personal, folder.unit), _clients(metrics, personal, folder.unit)
    shared |= _by_modality(metrics)
    lines = clients | shared if personal else shared | clients
    lines |= _privacy(metrics, folder)
    down, up = (sum(line[way] for line in metrics) / 1e6 for way in ("bytes_down", "bytes_up"))
    lines["communication"] = f"{down + up:,.1f} MB ({down:,.1f} down, {up:,.1f} up){_saved(metrics)}"
    if edges := edge_bytes(metrics):
        down, up = (nbytes / 1e6 for nbytes in edges)
        lines["  server and edges"] = f"{down + up:,.1f} MB ({down:,.1f} down, {up:,.1f} up)"
    lines["time"] = f"{duration(time_of_rounds(metrics))} for {count(len(metrics), 'round')}"
    if metrics and metrics[-1].get("virtual_seconds") is not None:
        lines["  on the clients' clock"] = duration(metrics[-1]["virtual_seconds"])
    lines["folder"] = str(folder.path)
    if folder.report.exists():
        lines["report"] = str(folder.report)
    return lines


def _privacy(metrics: Metrics, folder: RunDir) -> dict[str, str]:
    """What was spent of privacy; empty for a run that claims none."""
    spent = [line["measures"]["privacy/epsilon"] for line in metrics if "privacy/epsilon" in line.get("measures", {})]
    if not spent:
        return {}
    return {"privacy": spent_privacy(spent[-1], configuration(folder))}


def _saved(metrics: Metrics) -> str:
    found = saved_of_whole(metrics)
    return "" if found is None else f", {percent(1 - found[0] / found[1])} less than whole models"


def _shared(metrics: Metrics, personal: bool, unit: str) -> dict[str, str]:
    """The shared model on the test images. Empty if parts of it are private, because then there is no complete shared
    model."""
    test, best = last_with(metrics, "test"), best_round(metrics)
    if personal and test is None:
        return {}
    lines = {"test accuracy": in_full(test or {}, unit=unit) + (f" ({UNUSED})" if personal else "")}
    if best and best["test"]:
        chosen = f"round {best['round']}, lowest validation loss"
        lines["  of the best model"] = f"{with_interval(best['test'])}, {chosen}"
    return lines


WAYS = {
    "modality/image_only": "  by images alone",
    "modality/text_only": "  by texts alone",
    "zero_shot/held_out": "  held-out classes, by name",
    "retrieval/text_to_image_at_10": "  found by text in first 10",
}
"""Measure → its label."""


def _by_modality(metrics: Metrics) -> dict[str, str]:
    """How the shared model does with either modality, and without labels; empty for a model that takes images alone."""
    measured: dict[str, float] = {name: value for line in metrics for name, value in line.get("measures", {}).items()}
    return {label: percent(measured[name]) for name, label in WAYS.items() if name in measured}


def _clients(metrics: Metrics, personal: bool, unit: str) -> dict[str, str]:
    clients = last_with(metrics, "clients")
    if clients is None:
        return {"client accuracy": percent(None)}
    lines = {
        "client accuracy": in_full(clients, personal, unit),
        f"  {worst_clients(clients.get('evaluated'))}": percent(clients.get("accuracy_worst_tenth")),
    }
    if clients.get("shared_accuracy") is not None:
        lines["  of the shared model"] = f"{percent(clients['shared_accuracy'])} (no client uses it)"
    for apart, name in (("never_sampled", "never sampled"), ("malicious", "malicious")):
        if clients.get(apart):
            accuracy = percent(clients.get(f"{apart}_accuracy"))
            lines[f"  {name}"] = f"{accuracy}, {count(clients[apart], 'client')}, not in the figures above"
    return lines
