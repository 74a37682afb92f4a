"""Rounds of a made-up run of four classes, and what is said of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedlens.explain.checks import findings
from fedlens.explain.evidence import Evidence
from fedlens.tracking.findings import Commands, Finding

COMMANDS = Commands("fedlens run data.path=./data model.name=cnn model.norm=group", "fedlens resume logs/run")
CONFIG: Mapping[str, Any] = {
    "federated": {"num_rounds": 6, "local_epochs": 1},
    "optimizer": {"name": "sgd", "lr": 0.1},
    "strategy": {"name": "fedavg"},
    "model": {"name": "cnn", "pretrained": False, "weights": None},
}
GUESSING = math.log(4)
CLIENTS = ("a", "b", "c", "d")

EQUAL = [[10, 10, 10, 10]] * 4
"""Training images of each class at four clients."""
ONE_EACH = [[40, 0, 0, 0], [0, 40, 0, 0], [0, 0, 40, 0], [0, 0, 0, 40]]


def partition(counts: Sequence[Sequence[int]] = EQUAL) -> dict[str, Any]:
    clients = {name: {"train": list(one)} for name, one in zip(CLIENTS, counts, strict=True)}
    return {"class_names": ["w", "x", "y", "z"], "clients": clients, "test": [25] * 4}


def client(name: str, before: float = 0.5, after: float = 0.5, **metrics: float) -> dict[str, Any]:
    own = {"loss": 0.5, "loss_before": before, "loss_after": after, "update_norm": 1.0, "seconds": 1.0, **metrics}
    return {"client": name, "weight": 40.0, "metrics": own}


def line(
    number: int, accuracy: float = 0.9, validation: float | None = 0.5, measures: Any = None, **more: Any
) -> dict[str, Any]:
    """A round on 100 test images, of which 30 are of the commonest class. Four clients send updates of length 1 at
    right angles, so their mean has the length ½, which is the server's step; the model has the length 5."""
    test = {"accuracy": accuracy, "examples": 100, "chance": 0.25, "majority": 0.3, "recalls": [accuracy] * 4}
    return {
        "round": number,
        "train_loss": 0.5,
        "test": test,
        "validation": None if validation is None else {"loss": validation, "accuracy": 0.9, "chance": 0.25},
        "clients": None,
        "cohort": [client(name) for name in CLIENTS],
        "failures": [],
        "update_norm": 0.5,
        "seconds": {"train": 1.0, "evaluate": 0.2},
        "measures": {"diversity/updates": 1.0, "norm/model": 5.0, "labels/cohort": 0.0, **(measures or {})},
        **more,
    }


def falling(rounds: int = 6, **more: Any) -> list[dict[str, Any]]:
    """A run that learns, and has ended: the validation loss comes close to 0.5."""
    return [line(number, validation=0.5 + 0.5**number, **more) for number in range(1, rounds + 1)]


def told(
    metrics: Sequence[Mapping[str, Any]], counts: Sequence[Sequence[int]] = EQUAL, tensors: Any = tuple, **sections: Any
) -> list[Finding]:
    return findings(Evidence({**CONFIG, **sections}, metrics, partition(counts), tensors))


def names(*given: Any, **more: Any) -> list[str]:
    return [one.name for one in told(*given, **more)]
