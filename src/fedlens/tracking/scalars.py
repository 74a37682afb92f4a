"""The numbers of a round by name, the same for TensorBoard, MLflow and Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MOST_CLIENTS = 50
"""Maximum number of clients with a curve of their own; more would not be legible."""

Figures = Mapping[str, Any]


def scalars_of(line: Figures) -> dict[str, float]:
    """Every number of a round by its tag; unmeasured ones are left out. `line`: of a metrics file (`metrics.line_of`),
    so that rounds that are on disk already have the same numbers."""
    scalars = {
        "train/loss": line["train_loss"],
        "train/learning_rate": line.get("lr"),
        "train/update_norm": line.get("update_norm"),
        "train/cohort": len(line["cohort"]),
        "train/failures": len(line["failures"]),
        "train/arrivals": line.get("arrivals"),
        "train/virtual_seconds": line.get("virtual_seconds"),
        **{f"staleness/{name}": steps for name, steps in (line.get("staleness") or {}).items()},
        "communication/bytes_up": line["bytes_up"],
        "communication/bytes_down": line["bytes_down"],
        **{f"seconds/{phase}": seconds for phase, seconds in line["seconds"].items()},
        **_evaluation("test", line["test"] or {}),
        **_evaluation("validation", line["validation"] or {}),
        **_clients(line["clients"] or {}),
        **line.get("measures", {}),
    }
    return {tag: value for tag, value in scalars.items() if value is not None}


def _evaluation(name: str, found: Figures) -> dict[str, float | None]:
    return {
        f"{name}/loss": found.get("loss"),
        f"{name}/accuracy": found.get("accuracy"),
        f"{name}/balanced_accuracy": found.get("balanced_accuracy"),
        f"{name}/auroc": found.get("auroc"),
        f"{name}/images": found.get("examples"),
        f"{name}/floor_chance": found.get("chance"),
        f"{name}/floor_majority_class": found.get("majority"),
    }


def _clients(found: Figures) -> dict[str, float | None]:
    scalars = {
        "clients/accuracy": found.get("accuracy"),
        "clients/accuracy_over_examples": found.get("accuracy_over_examples"),
        "clients/accuracy_worst_tenth": found.get("accuracy_worst_tenth"),
        "clients/accuracy_best_tenth": found.get("accuracy_best_tenth"),
        "clients/accuracy_deviation": found.get("accuracy_deviation"),
        "clients/shared_accuracy": found.get("shared_accuracy"),
        "clients/never_sampled_accuracy": found.get("never_sampled_accuracy"),
        "clients/malicious_accuracy": found.get("malicious_accuracy"),
        "clients/loss": found.get("loss"),
        "clients/images": found.get("examples"),
        "clients/floor_chance": found.get("chance"),
        "clients/floor_majority_class": found.get("majority"),
        "clients/floor_own_majority_class": found.get("own_majority"),
    }
    single = found.get("by_client", [])
    if len(single) <= _MOST_CLIENTS:
        scalars |= {f"client_accuracy/{client['client']}": client["accuracy"] for client in single}
        scalars |= {f"client_loss/{client['client']}": client["loss"] for client in single}
    return scalars
