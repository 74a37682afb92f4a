"""TensorBoard events in the run's folder: `tensorboard --logdir ./logs` shows every run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedlens.core.records import Evaluation, RoundRecord
from fedlens.tracking.clients import summarize_clients
from fedlens.tracking.figures import confusion_figure, predictions_figure, to_image

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_MOST_CLIENTS = 50
"""Maximum number of clients with a curve of their own; more would not be legible."""


_PLACES = {
    **{"test": 1, "validation": 2, "train": 3, "communication": 5, "seconds": 6},
    **{"predictions": 7, "confusion": 7, "data": 7, "final": 7},
    **{"clients": 8, "client_accuracy": 9, "client_loss": 9},
}
_MEASURED = 4
"""Position of the groups that are not listed above: measurements of a round's clients."""


def placed(tag: str) -> str:
    """`tag` in the form for TensorBoard: test/loss → 1_test/loss. TensorBoard sorts groups by name, and the most
    important should come first: test first, clients last."""
    return f"{_PLACES.get(tag.partition('/')[0], _MEASURED)}_{tag}"


class TensorBoardTracker:
    """Tracker that writes scalars, figures and hyper-parameters.

    Nothing is imported or opened before the first write; figures import matplotlib, which takes a second or two.
    `after_round` is for a resumed run: TensorBoard then hides what an earlier process wrote for later rounds.
    """

    def __init__(self, folder: Path, class_names: Sequence[str], after_round: int | None = None) -> None:
        self._folder = folder
        self._class_names = class_names
        self._purge_step = None if after_round is None else after_round + 1
        self._opened: SummaryWriter | None = None
        self._last_test: tuple[int, Evaluation] | None = None

    def round(self, record: RoundRecord) -> None:
        for tag, value in scalars_of(record).items():
            self._writer.add_scalar(placed(tag), value, record.round)
        if record.test is not None:
            self._last_test = (record.round, record.test)
        self._writer.flush()

    def partition(self, counts: NDArray[np.int64], clients: Sequence[str]) -> None:
        """Show the number of training images per client and class: `counts` (clients, classes)."""
        from fedlens.data.show import partition_figure

        self._image("data/partition", to_image(partition_figure(counts, clients, self._class_names)), 0)

    def predictions(
        self, images: NDArray[np.uint8], truth: Sequence[str], predicted: Sequence[str], step: int = 0
    ) -> None:
        """Show sample `images` (B, S, S, C) with the model's predictions; wrong ones in red."""
        self._image("predictions/test", to_image(predictions_figure(images, truth, predicted)), step)

    def finish(self, hparams: Mapping[str, str | float | bool], final: Mapping[str, float]) -> None:
        """Write the hyper-parameters, and the final metrics as `7_final/<name>`, for TensorBoard's HParams page."""
        from torch.utils.tensorboard import summary

        metrics = {placed(f"final/{name}"): value for name, value in final.items()}
        # SummaryWriter.add_hparams would create a separate run in a sub-folder
        events: Any = self._writer.file_writer
        for event in summary.hparams(dict(hparams), metrics):
            events.add_summary(event)
        for tag, value in metrics.items():
            self._writer.add_scalar(tag, value)
        self._writer.flush()

    def close(self) -> None:
        """Write the confusion matrix of the last evaluation (drawing takes longer than a small round), and close."""
        if self._last_test is not None:
            step, test = self._last_test
            self._image("confusion/test", to_image(confusion_figure(test.confusion, self._class_names)), step)
        if self._opened is not None:
            self._opened.close()

    @property
    def _writer(self) -> SummaryWriter:
        if self._opened is None:
            from torch.utils.tensorboard import SummaryWriter

            self._opened = SummaryWriter(str(self._folder), purge_step=self._purge_step)
        return self._opened

    def _image(self, tag: str, image: NDArray[np.uint8], step: int) -> None:
        self._writer.add_image(placed(tag), image, step, dataformats="HWC")


def scalars_of(record: RoundRecord) -> dict[str, float]:
    """Every number of a round by its TensorBoard tag; unmeasured ones are left out."""
    scalars = {
        "train/loss": record.train_loss,
        "train/learning_rate": record.lr,
        "train/update_norm": record.update_norm,
        "train/cohort": len(record.reports),
        "train/failures": len(record.failures),
        "train/arrivals": record.arrivals,
        "train/virtual_seconds": record.virtual_seconds,
        **_staleness(record.staleness),
        "communication/bytes_up": record.bytes_up,
        "communication/bytes_down": record.bytes_down,
        **{f"seconds/{phase}": seconds for phase, seconds in record.seconds.items()},
        **_evaluation("test", record.test, record.chance),
        **_evaluation("validation", record.validation, record.chance),
        **_clients(record),
        **record.measures,
    }
    return {tag: value for tag, value in scalars.items() if value is not None}


def _staleness(steps: Sequence[float]) -> dict[str, float | None]:
    return {"staleness/mean": sum(steps) / len(steps), "staleness/max": max(steps)} if steps else {}


def _evaluation(name: str, evaluation: Evaluation | None, chance: float | None) -> dict[str, float | None]:
    if evaluation is None or not evaluation.examples:
        return {}
    return {
        f"{name}/loss": evaluation.loss,
        f"{name}/accuracy": evaluation.accuracy,
        f"{name}/balanced_accuracy": evaluation.balanced_accuracy,
        f"{name}/auroc": evaluation.auroc,
        f"{name}/images": evaluation.examples,
        f"{name}/floor_chance": chance,
        f"{name}/floor_majority_class": evaluation.majority,
    }


def _clients(record: RoundRecord) -> dict[str, float | None]:
    if not record.clients:
        return {}
    summary = summarize_clients(record.clients)
    scalars = {
        "clients/accuracy": summary.accuracy,
        "clients/accuracy_over_examples": summary.accuracy_over_examples,
        "clients/accuracy_worst_tenth": summary.accuracy_worst_tenth,
        "clients/accuracy_best_tenth": summary.accuracy_best_tenth,
        "clients/accuracy_deviation": summary.accuracy_deviation,
        "clients/shared_accuracy": summary.shared_accuracy,
        "clients/never_sampled_accuracy": summary.never_sampled_accuracy,
        "clients/malicious_accuracy": summary.malicious_accuracy,
        "clients/loss": summary.loss,
        "clients/images": summary.examples,
        "clients/floor_chance": record.chance,
        "clients/floor_majority_class": summary.majority,
        "clients/floor_own_majority_class": summary.own_majority,
    }
    if len(record.clients) <= _MOST_CLIENTS:
        scalars |= {f"client_accuracy/{client.client}": client.accuracy for client in record.clients}
        scalars |= {f"client_loss/{client.client}": client.loss for client in record.clients}
    return scalars
