"""The one definition of the headline figures, for metrics, TensorBoard, reports and comparisons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

PLAIN = {"personalization": "none", "aggregation": "mean", "schedule": "sync"}
"""Defaults that a run's name does not mention."""


def algorithm_parts(config: Mapping[str, Any]) -> list[str]:
    """A configuration's sections → the strategy, and all non-default parts: fedavg, fedper, krum, fedbuff."""
    chosen = {section: config.get(section, {}).get("name", plain) for section, plain in PLAIN.items()}
    strategy = str(config.get("strategy", {}).get("name", "–"))
    mode = config.get("privacy", {}).get("mode", "none")
    private = [] if mode == "none" else [f"{mode}-dp"]
    return [strategy, *(name for section, name in chosen.items() if name != PLAIN[section]), *private]


def is_personal(config: Mapping[str, Any]) -> bool:
    """Whether clients use their own models, so that no client uses the shared one."""
    return bool(config.get("personalization", {}).get("name", "none") != "none")


def algorithm_name(config: Mapping[str, Any]) -> str:
    """ "fedavg"; "fedavg + fedper"; "fedavg + krum, 20 % attack by sign_flip"."""
    name, attack = " + ".join(algorithm_parts(config)), config.get("attack", {})
    if attack.get("name", "none") == "none":
        return name
    return f"{name}, {100 * attack['fraction']:.3g} % attack by {attack['name']}"


def best_round(metrics: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The line of the round with the lowest validation loss, the first if several are equal; None without validation.

    This round's model is kept as the best. Test figures are not used for the choice, so the test accuracy of this round
    is an unbiased estimate.
    """
    best, lowest = None, math.inf
    for line in metrics:
        loss = line["validation"] and line["validation"]["loss"]
        if loss is not None and loss < lowest:
            best, lowest = line, loss
    return best


def last_with(metrics: Sequence[Mapping[str, Any]], key: str) -> Mapping[str, Any] | None:
    """The value of `key` (test, validation, clients) in the last line that has it."""
    found: Mapping[str, Any] | None = next((line[key] for line in reversed(metrics) if line[key]), None)
    return found


def time_of_rounds(metrics: Sequence[Mapping[str, Any]]) -> float:
    """Seconds of all rounds, from each round's first phase to its last: a run's time.

    A resumed run counts all its rounds. Time before the first round and after the last one is not included.
    """
    return float(sum(sum(line["seconds"].values()) for line in metrics))


def spent_epsilon(measures: Mapping[str, float | None]) -> float | None:
    """ε after a round with these measures; None where none is counted. Files keep ∞ as null."""
    if "privacy/epsilon" not in measures:
        return None
    spent = measures["privacy/epsilon"]
    return math.inf if spent is None else spent


def duration(seconds: float) -> str:
    """42.3 → "42.3 s", 192 → "3 min 12 s", 7500 → "2 h 5 min"."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def percent(share: float | None) -> str:
    """0.8213 → "82.1 %"; "–" if not measured."""
    return "–" if share is None else f"{100 * share:.1f} %"


def named_confusion(confusion: NDArray[np.int64], class_names: Sequence[str]) -> tuple[NDArray[np.int64], list[str]]:
    """`confusion` with a name for every row. A model with more outputs than the data has classes gives a larger matrix:
    unnamed classes that never occur or are never predicted are left out."""
    named = min(len(class_names), len(confusion))
    counted = np.flatnonzero(confusion.sum(axis=0) + confusion.sum(axis=1)).tolist()
    kept = [*range(named), *(index for index in counted if index >= named)]
    names = [class_names[index] if index < named else f"class {index}" for index in kept]
    return confusion[np.ix_(kept, kept)], names


def saved_of_whole(metrics: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    """(bytes sent per round, bytes for whole models and updates), means over the rounds that recorded both; None if
    whole models were sent."""
    parts = [line for line in metrics if "traffic/whole_model" in line.get("measures", {})]
    if not parts:
        return None
    whole = sum(line["measures"]["traffic/whole_model"] for line in parts) / len(parts)
    return sum(line["bytes_up"] + line["bytes_down"] for line in parts) / len(parts), float(whole)


def edge_bytes(metrics: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    """Bytes between the server and its edges in all rounds: to the edges, to the server; None without edges."""
    found = [line["measures"] for line in metrics if "traffic/edges_up" in line.get("measures", {})]
    if not found:
        return None
    return sum(one["traffic/edges_down"] for one in found), sum(one["traffic/edges_up"] for one in found)


def contributions(metrics: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Client → what its updates were worth, in the rounds in which that was measured (`federation.leave_one_out`)."""
    told: dict[str, list[float]] = {}
    for line in metrics:
        for client, value in line.get("contributions", {}).items():
            if value is not None:
                told.setdefault(client, []).append(value)
    return told
