"""The test images for a report, with the final model's predictions."""

from __future__ import annotations

from pathlib import Path

from fedlens.build.experiment import Experiment
from fedlens.build.inputs import inputs_of
from fedlens.tracking.pictures import save_pictures
from fedlens.training.evaluation import predictions


def keep_pictures(experiment: Experiment, path: Path) -> None:
    """Write `path` (pictures.json). No effect without test images, without one model for all clients, or with a user's
    own tensors as data. Only the run's own test images are read, never a client's."""
    data = experiment.images
    if experiment.partly_private or not len(data.test) or data.images.is_floating_point():
        return
    memory = experiment.config.memory
    predicted, confidence = predictions(
        experiment.resident.module,
        inputs_of(experiment, data.test),
        precision=memory.precision,
        batch_size=memory.micro_batch,
    )
    names = [*data.class_names, *(f"class {index}" for index in range(len(data.class_names), int(predicted.max()) + 1))]
    labels, images = data.labels.numpy()[data.test], data.images.numpy()
    save_pictures(path, images, data.test, labels, predicted, confidence, names)
