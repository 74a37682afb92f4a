"""What the headline numbers mean: defined here once, for metrics, TensorBoard, reports and comparisons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # reading a run must not wait for torch
    from fedlens.federation.records import ClientEvaluation


@dataclass(frozen=True)
class ClientsSummary:
    """Accuracy of the models that clients use at home, each on its own test images.

    The means, the loss and the worst tenth are over clients that have trained at least once; clients that were
    never sampled are counted apart, so that they neither drag the figures down nor hide. None: there are none.
    """

    mean: float | None
    """Mean accuracy over clients: every client counts the same."""
    mean_over_examples: float | None
    """Mean accuracy over images: a client counts by its test images."""
    worst_tenth: float | None
    """Mean accuracy of the worst ⌈n/10⌉ clients."""
    shared_mean: float | None
    """Mean accuracy over clients of the shared model, where clients use models of their own beside it."""
    best_tenth: float | None
    """Mean accuracy of the best ⌈n/10⌉ clients."""
    deviation: float | None
    """Standard deviation of the accuracy over clients (n in the denominator)."""
    loss: float | None
    """Mean loss over clients."""
    evaluated: int
    never_sampled: int
    never_sampled_mean: float | None


def summarize_clients(clients: Sequence[ClientEvaluation]) -> ClientsSummary:
    trained = [client for client in clients if client.trained and client.examples]
    apart = [client for client in clients if not client.trained and client.examples]
    accuracies = sorted(client.accuracy for client in trained)
    tenth = math.ceil(len(accuracies) / 10)
    return ClientsSummary(
        mean=_mean(accuracies),
        mean_over_examples=_weighted_mean(trained),
        worst_tenth=_mean(accuracies[:tenth]),
        best_tenth=_mean(accuracies[len(accuracies) - tenth :]),
        deviation=float(np.std(accuracies)) if accuracies else None,
        shared_mean=_mean([client.shared_accuracy for client in trained if client.shared_accuracy is not None]),
        loss=_mean([client.loss for client in trained]),
        evaluated=len(trained),
        never_sampled=len(apart),
        never_sampled_mean=_mean([client.accuracy for client in apart]),
    )


PLAIN = {"personalization": "none", "aggregation": "mean", "schedule": "sync"}
"""Parts of an algorithm that a run's name says nothing of."""


def algorithm_parts(config: Mapping[str, Any]) -> list[str]:
    """A configuration's sections → the strategy, and what is not plain beside it: fedavg, fedper, krum, fedbuff."""
    chosen = {section: config.get(section, {}).get("name", plain) for section, plain in PLAIN.items()}
    strategy = str(config.get("strategy", {}).get("name", "–"))
    return [strategy, *(name for section, name in chosen.items() if name != PLAIN[section])]


def algorithm_name(config: Mapping[str, Any]) -> str:
    """ "fedavg"; "fedavg + fedper"; "fedavg + krum, 20 % attack by sign_flip"."""
    name, attack = " + ".join(algorithm_parts(config)), config.get("attack", {})
    if attack.get("name", "none") == "none":
        return name
    return f"{name}, {100 * attack['fraction']:.3g} % attack by {attack['name']}"


def best_round(metrics: Sequence[Mapping[str, Any]], min_delta: float = 0.0) -> Mapping[str, Any] | None:
    """The line of the last round that improved the validation loss by more than `min_delta`; None without validation.

    This is the round whose model is kept as the best. Test figures play no part in the choice, so the test
    accuracy of this round is an honest estimate.
    """
    best, lowest = None, math.inf
    for line in metrics:
        loss = line["validation"] and line["validation"]["loss"]
        if loss is not None and loss < lowest - min_delta:
            best, lowest = line, loss
    return best


def last_with(metrics: Sequence[Mapping[str, Any]], key: str) -> Mapping[str, Any] | None:
    """What the last line that has a `key` (test, validation, clients) says under it."""
    found: Mapping[str, Any] | None = next((line[key] for line in reversed(metrics) if line[key]), None)
    return found


def time_of_rounds(metrics: Sequence[Mapping[str, Any]]) -> float:
    """Seconds that the rounds took, from the first phase of each to its last: what is called the time of a run.

    A resumed run's are all of its rounds. What comes before the first round and after the last is no part of it.
    """
    return float(sum(sum(line["seconds"].values()) for line in metrics))


def duration(seconds: float) -> str:
    """42.3 → "42.3 s", 192 → "3 min 12 s", 7500 → "2 h 5 min"."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def percent(share: float | None) -> str:
    """0.8213 → "82.1 %"; "–" when it was not measured."""
    return "–" if share is None else f"{100 * share:.1f} %"


def named_confusion(confusion: NDArray[np.int64], class_names: Sequence[str]) -> tuple[NDArray[np.int64], list[str]]:
    """`confusion` with a name for every row. A model with more outputs than the data has classes gives a larger
    matrix: of the nameless classes, those that were never seen or predicted are left out."""
    named = min(len(class_names), len(confusion))
    counted = np.flatnonzero(confusion.sum(axis=0) + confusion.sum(axis=1)).tolist()
    kept = [*range(named), *(index for index in counted if index >= named)]
    names = [class_names[index] if index < named else f"class {index}" for index in kept]
    return confusion[np.ix_(kept, kept)], names


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _weighted_mean(clients: Sequence[ClientEvaluation]) -> float | None:
    examples = sum(client.examples for client in clients)
    return sum(client.accuracy * client.examples for client in clients) / examples if examples else None
