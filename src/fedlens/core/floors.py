"""Accuracies that need no learning: baselines for the accuracy of a model.

chance          1 / classes: naming a class at random
majority class  always naming the commonest class of the training images: of all clients together for the shared model,
                of each client's own for a personal model. Known as ZeroR, and as
                DummyClassifier(strategy="most_frequent") in scikit-learn
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedlens.core.types import ClientInfo, Split


@dataclass(frozen=True)
class Population:
    """All known clients with what they say of their training images, counted once, and the baselines that follow."""

    clients: Sequence[ClientInfo]

    @cached_property
    def held(self) -> Mapping[str, tuple[int, ...]]:
        """Client → its training images of each class, of the clients that have some and say so."""
        return {client.name: client.counts["train"] for client in self.clients if any(client.counts["train"])}

    @cached_property
    def totals(self) -> NDArray[np.int64] | None:
        """(classes,) training images of all clients; None where no client has any, or says so."""
        return np.array(list(self.held.values()), np.int64).sum(axis=0) if self.held else None

    @cached_property
    def chance(self) -> float | None:
        """None where no client says how many classes there are."""
        classes = max((len(client.counts["train"]) for client in self.clients), default=0)
        return 1 / classes if classes else None

    @property
    def label(self) -> int | None:
        """The commonest class of all clients' training images; None where they are not counted."""
        return None if self.totals is None else commonest(self.totals)

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
