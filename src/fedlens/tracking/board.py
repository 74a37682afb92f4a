"""What a run's writers are told: every round, and at the end pictures, parameters and final metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from fedlens.build.experiment import Experiment
from fedlens.build.inputs import inputs_of
from fedlens.core.records import Evaluation, RoundRecord
from fedlens.data.labels import beside_unlabelled
from fedlens.runtimes.base import Runtime
from fedlens.tracking.figures import confusion_figure, predictions_figure, to_image
from fedlens.tracking.hyper_parameters import hyper_parameters
from fedlens.tracking.metrics import line_of, read_metrics
from fedlens.tracking.run_dir import RunDir
from fedlens.tracking.scalars import scalars_of
from fedlens.tracking.summary import last_with
from fedlens.tracking.writers import Writers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLES = 16
"""Number of images among the sample predictions."""


class Board:
    """Tracker that tells `writers` every round, and shows them figures when the run ends or is stopped.

    Drawing a figure takes longer than a small round; drawn between rounds it would be counted in a round's time.
    """

    def __init__(self, folder: RunDir, experiment: Experiment, runtime: Runtime, writers: Writers) -> None:
        self._folder = folder
        self._experiment = experiment
        self._runtime = runtime
        self._writers = writers
        self._last_test: tuple[int, Evaluation] | None = None
        earlier = read_metrics(folder.metrics) if writers else []
        writers.tell(lambda writer: writer.open(earlier))

    def round(self, record: RoundRecord) -> None:
        if self._writers:
            scalars = scalars_of(line_of(record))
            self._writers.tell(lambda writer: writer.scalars(record.round, scalars))
        if record.test is not None:
            self._last_test = (record.round, record.test)

    def finish(self) -> None:
        """Show sample predictions of the current model; tell what differs from the defaults, and the final metrics."""
        if not self._writers:
            return
        self._predictions()
        final = {name: value for name, value in final_metrics(self._folder).items() if value is not None}
        parameters = hyper_parameters(self._experiment.config)
        self._writers.tell(lambda writer: writer.finish(parameters, final))

    def close(self) -> None:
        """Draw the partition and the confusion matrix of the last evaluation."""
        if not self._writers:
            return
        from fedlens.data.show import partition_figure

        names = [self._experiment.shown(name) for name in self._experiment.train_data.class_names]
        clients = [client for client in self._runtime.known() if not client.hidden]
        if clients:
            counts = np.array([client.counts["train"] for client in clients], np.int64)
            columns, counts = beside_unlabelled(names, counts, [client.unlabelled for client in clients])
            self._show("data/partition", partition_figure(counts, [client.name for client in clients], columns), 0)
        if self._last_test is not None:
            number, test = self._last_test
            self._show("confusion/test", confusion_figure(test.confusion, names), number)

    def _predictions(self) -> None:
        experiment, data = self._experiment, self._experiment.images
        if experiment.partly_private or not experiment.config.tracking.pictures:
            return
        rows = data.test[:: max(len(data.test) // SAMPLES, 1)][:SAMPLES]
        if not len(rows) or data.images.is_floating_point():
            return
        with torch.inference_mode():
            inputs, labels = next(inputs_of(experiment, rows).once(SAMPLES))
            predicted = experiment.resident.module.eval()(inputs).argmax(1)
        names = [experiment.shown(named(data.class_names, index)) for index in (*labels.tolist(), *predicted.tolist())]
        images = data.images[torch.from_numpy(rows)].numpy()
        self._show("predictions/test", predictions_figure(images, names[: len(rows)], names[len(rows) :]), 0)

    def _show(self, tag: str, figure: Figure, number: int) -> None:
        image = to_image(figure)
        self._writers.tell(lambda writer: writer.picture(tag, image, number))


def named(class_names: Sequence[str], index: int) -> str:
    """The class name; outputs beyond the data's classes have no name."""
    return class_names[index] if index < len(class_names) else f"class {index}"


def final_metrics(folder: RunDir) -> dict[str, float | None]:
    """The metrics by which runs are compared in lists of runs."""
    lines = read_metrics(folder.metrics)
    test, clients = last_with(lines, "test") or {}, last_with(lines, "clients") or {}
    return {
        "test_accuracy": test.get("accuracy"),
        "test_loss": test.get("loss"),
        "client_accuracy": clients.get("accuracy"),
        "client_accuracy_worst_tenth": clients.get("accuracy_worst_tenth"),
        "shared_accuracy": clients.get("shared_accuracy"),
    }
