"""Client accuracy: the one definition of the figures over clients, for all outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedlens.tracking.intervals import of_mean

if TYPE_CHECKING:  # importing torch would delay commands that only read runs
    from fedlens.core.records import ClientEvaluation

CLIENT_ACCURACY = "Client accuracy: each client's model on its own test images; mean over clients."
FEW = 10
"""With fewer clients, the worst tenth is the worst client."""


@dataclass(frozen=True)
class ClientsSummary:
    """Accuracy of each client's model on the client's own test images.

    All figures are over the benign clients that have trained at least once. Never sampled and malicious clients are
    summarised separately, so that they do not change the figures but remain visible. None: there are no such clients.
    """

    accuracy: float | None
    """Client accuracy: unweighted mean over clients."""
    accuracy_low: float | None
    accuracy_high: float | None
    """95 % interval of that mean, over clients (Student's t); None: see `intervals.of_mean`."""
    accuracy_over_examples: float | None
    """Mean over images: each client is weighted by its number of test images."""
    accuracy_worst_tenth: float | None
    """Mean of the worst ⌈n/10⌉ clients: of fewer than ten clients, the worst one."""
    accuracy_best_tenth: float | None
    """Mean of the best ⌈n/10⌉ clients."""
    accuracy_deviation: float | None
    """Standard deviation over clients (n in the denominator)."""
    shared_accuracy: float | None
    """Mean over clients of the shared model's accuracy, if clients use their own models."""
    loss: float | None
    """Mean loss over clients."""
    majority: float | None
    """Mean over clients of the accuracy of always predicting the most frequent class in all clients' training
    images."""
    own_majority: float | None
    """Mean over clients of the accuracy of always predicting the most frequent class in the client's own training
    images."""
    evaluated: int
    examples: int
    """Test images of the evaluated clients."""
    never_sampled: int
    never_sampled_accuracy: float | None
    malicious: int
    malicious_accuracy: float | None


def summarize_clients(clients: Sequence[ClientEvaluation]) -> ClientsSummary:
    counted = [client for client in clients if client.counted]
    malicious = [client for client in clients if client.malicious and client.examples]
    never = [client for client in clients if not client.trained and not client.malicious and client.examples]
    accuracies = sorted(client.accuracy for client in counted)
    tenth = math.ceil(len(accuracies) / 10)
    low, high = of_mean(accuracies) or (None, None)
    return ClientsSummary(
        accuracy=_mean(accuracies),
        accuracy_low=low,
        accuracy_high=high,
        accuracy_over_examples=_weighted_mean(counted),
        accuracy_worst_tenth=_mean(accuracies[:tenth]),
        accuracy_best_tenth=_mean(accuracies[len(accuracies) - tenth :]),
        accuracy_deviation=float(np.std(accuracies)) if accuracies else None,
        shared_accuracy=_mean_of(counted, lambda client: client.shared_accuracy),
        loss=_mean([client.loss for client in counted]),
        majority=_mean_of(counted, lambda client: client.majority),
        own_majority=_mean_of(counted, lambda client: client.own_majority),
        evaluated=len(counted),
        examples=sum(client.examples for client in counted),
        never_sampled=len(never),
        never_sampled_accuracy=_mean([client.accuracy for client in never]),
        malicious=len(malicious),
        malicious_accuracy=_mean([client.accuracy for client in malicious]),
    )


def worst_clients(evaluated: int | None) -> str:
    """The label for the worst ⌈n/10⌉ of `evaluated` clients."""
    return "worst client" if evaluated is not None and evaluated < FEW else "worst tenth of clients"


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _mean_of(clients: Sequence[ClientEvaluation], figure: Callable[[ClientEvaluation], float | None]) -> float | None:
    """Mean over the clients that have the figure."""
    return _mean([value for value in map(figure, clients) if value is not None])


def _weighted_mean(clients: Sequence[ClientEvaluation]) -> float | None:
    examples = sum(client.examples for client in clients)
    return sum(client.accuracy * client.examples for client in clients) / examples if examples else None
