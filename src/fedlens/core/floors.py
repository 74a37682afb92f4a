"""Accuracies that need no learning: baselines for the accuracy of a model.

chance          1 / classes: naming a class at random
majority class  always naming the commonest class of the training images: of all clients together for the shared model,
                of each client's own for a personal model. Known as ZeroR, and as
                DummyClassifier(strategy="most_frequent") in scikit-learn
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlens.core.types import ClientInfo, Split


@dataclass(frozen=True)
class Floors:
    """The baselines of one run, from its clients' label counts."""

    clients: Sequence[ClientInfo]

    @property
    def chance(self) -> float | None:
        """None where no client says how many classes there are."""
        classes = max((len(client.counts["train"]) for client in self.clients), default=0)
        return 1 / classes if classes else None

    @property
    def label(self) -> int | None:
        """The commonest class of all clients' training images; None where they are not counted."""
        counts = [client.counts["train"] for client in self.clients if client.counts["train"]]
        return commonest(np.array(counts).sum(axis=0)) if counts else None

    def of_confusion(self, confusion: NDArray[np.int64]) -> float | None:
        """Accuracy of always naming `label`, on the images that `confusion` (true by predicted) counts."""
        return share(confusion.sum(axis=1), self.label)


def own_majority(client: ClientInfo, split: Split) -> float | None:
    """Accuracy on a client's `split` of always naming the commonest class of its own training images."""
    return share(np.array(client.counts[split]), commonest(np.array(client.counts["train"])))


def commonest(counts: NDArray[np.int64]) -> int | None:
    """The label with the most images, the first of equal ones; None without images."""
    return int(counts.argmax()) if counts.sum() else None


def share(counts: NDArray[np.int64], label: int | None) -> float | None:
    """The share of `label` in `counts` (classes,); None without a label or without images."""
    total = int(counts.sum())
    return float(counts[label]) / total if total and label is not None and label < len(counts) else None
