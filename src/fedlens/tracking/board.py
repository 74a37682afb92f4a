"""TensorBoard output of a run: every round, and at the end sample predictions and hyper-parameters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fedlens.build.experiment import Experiment
from fedlens.build.scoring import inputs_of
from fedlens.core.records import RoundRecord
from fedlens.runtimes.base import Runtime
from fedlens.tracking.hyper_parameters import hyper_parameters
from fedlens.tracking.metrics import read_metrics
from fedlens.tracking.run_dir import RunDir
from fedlens.tracking.summary import last_with
from fedlens.tracking.tensorboard import TensorBoardTracker

SAMPLES = 16
"""Number of images among the sample predictions."""


class Board:
    """TensorBoard output of a run: every round, and figures when it ends or is stopped.

    Drawing a figure takes longer than a small round; drawn between rounds it would be counted in a round's time.
    """

    def __init__(self, folder: RunDir, experiment: Experiment, runtime: Runtime, done: int) -> None:
        self._tracker = TensorBoardTracker(folder.path, experiment.train_data.class_names, done or None)
        self._folder = folder
        self._experiment = experiment
        self._runtime = runtime

    def round(self, record: RoundRecord) -> None:
        self._tracker.round(record)

    def finish(self) -> None:
        """Write sample predictions of the current model, and the hyper-parameters with the final metrics."""
        self._predictions()
        final = {name: value for name, value in final_metrics(self._folder).items() if value is not None}
        self._tracker.finish(hyper_parameters(self._experiment.config), final)

    def close(self) -> None:
        """Draw the partition, and close."""
        clients = [client for client in self._runtime.known() if not client.hidden]
        if clients:
            counts = np.array([client.counts["train"] for client in clients], np.int64)
            self._tracker.partition(counts, [client.name for client in clients])
        self._tracker.close()

    def _predictions(self) -> None:
        experiment, data = self._experiment, self._experiment.images
        if experiment.partly_private:
            return
        rows = data.test[:: max(len(data.test) // SAMPLES, 1)][:SAMPLES]
        if not len(rows) or data.images.is_floating_point():
            return
        with torch.inference_mode():
            inputs, labels = next(inputs_of(experiment, rows).once(SAMPLES))
            predicted = experiment.resident.module.eval()(inputs).argmax(1)
        names = [named(data.class_names, index) for index in (*labels.tolist(), *predicted.tolist())]
        self._tracker.predictions(data.images[torch.from_numpy(rows)].numpy(), names[: len(rows)], names[len(rows) :])


def named(class_names: Sequence[str], index: int) -> str:
    """The class name; outputs beyond the data's classes have no name."""
    return class_names[index] if index < len(class_names) else f"class {index}"


def final_metrics(folder: RunDir) -> dict[str, float | None]:
    """The metrics by which TensorBoard compares hyper-parameters."""
    lines = read_metrics(folder.metrics)
    test, clients = last_with(lines, "test") or {}, last_with(lines, "clients") or {}
    return {
        "test_accuracy": test.get("accuracy"),
        "test_loss": test.get("loss"),
        "client_accuracy": clients.get("accuracy"),
        "client_accuracy_worst_tenth": clients.get("accuracy_worst_tenth"),
        "shared_accuracy": clients.get("shared_accuracy"),
    }
