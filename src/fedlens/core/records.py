"""What a round leaves behind: the records that trackers write and reports read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedlens.core.types import ClientFailure, ClientReport


@dataclass(frozen=True)
class Evaluation:
    """A model on a set of rows. `confusion` is int64 (classes, classes): true label by predicted label."""

    loss: float
    confusion: NDArray[np.int64]
    auroc: float | None = None
    """Area under the ROC curve, for two classes only."""
    majority: float | None = None
    """Accuracy of always naming the commonest training class: see `core.floors`."""

    @property
    def examples(self) -> int:
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        return float(np.trace(self.confusion)) / max(self.examples, 1)

    @property
    def recalls(self) -> NDArray[np.float64]:
        """(classes,) recall by class; NaN where the set has no such image."""
        counts = self.confusion.sum(axis=1)
        with np.errstate(invalid="ignore"):
            return np.asarray(np.diag(self.confusion) / np.where(counts == 0, np.nan, counts), dtype=np.float64)

    @property
    def balanced_accuracy(self) -> float:
        """Mean of the recalls of the classes that occur."""
        return float(np.nanmean(self.recalls))


@dataclass(frozen=True)
class ClientEvaluation:
    """The model that one client uses, on its own test rows."""

    client: str
    accuracy: float
    loss: float
    examples: int
    trained: bool
    """False while the client has never been sampled: figures over clients leave it out."""
    shared_accuracy: float | None = None
    """Of the shared model on the same rows; None where the client uses that one, or parts of it are private."""
    malicious: bool = False
    """The client attacks: figures over clients leave it out."""
    majority: float | None = None
    """Accuracy of always naming the commonest class of all clients' training images, on the same rows."""
    own_majority: float | None = None
    """Accuracy of always naming the commonest class of the client's own training images, on the same rows."""

    @property
    def counted(self) -> bool:
        """Its accuracy enters the figures over clients."""
        return self.trained and not self.malicious and self.examples > 0


@dataclass(frozen=True)
class RoundRecord:
    """One finished round. Seconds by phase: broadcast, train, aggregate, evaluate, leave_one_out, checkpoint.
    `virtual_seconds`: what the virtual clock shows at its end, where there is one."""

    round: int
    lr: float
    reports: tuple[ClientReport, ...]
    failures: tuple[ClientFailure, ...]
    update_norm: float
    bytes_down: int
    bytes_up: int
    seconds: Mapping[str, float]
    test: Evaluation | None = None
    validation: Evaluation | None = None
    clients: tuple[ClientEvaluation, ...] = field(default=())
    measures: Mapping[str, float] = field(default_factory=dict)
    """What else was measured, by names such as attack/success."""
    chance: float | None = None
    """1 / classes; None where no client says how many there are."""
    virtual_seconds: float | None = None
    contributions: Mapping[str, float] = field(default_factory=dict)
    """Client → accuracy that the round gains by its update (`federation.leave_one_out`), where that was measured."""

    @property
    def arrivals(self) -> int:
        """Tasks that came back, with an update that was counted or without."""
        return len(self.reports) + len(self.failures)

    @property
    def staleness(self) -> Sequence[float]:
        """Staleness of every counted update, in steps of the server; empty for synchronous rounds."""
        return [report.metrics["staleness"].value for report in self.reports if "staleness" in report.metrics]

    @property
    def train_loss(self) -> float:
        """Mean training loss over the cohort's examples; NaN where no client tells it."""
        told = [report.metrics["loss"] for report in self.reports if "loss" in report.metrics]
        weight = sum(loss.weight for loss in told)
        return sum(loss.total for loss in told) / weight if weight else float("nan")


class Tracker(Protocol):
    """Receives the record of every finished round: metrics file, TensorBoard, console."""

    def round(self, record: RoundRecord) -> None: ...

    def close(self) -> None: ...
