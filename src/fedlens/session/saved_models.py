"""The models that a run leaves in its folder: the final one, and the best by validation."""

from __future__ import annotations

from fedlens.build.experiment import Experiment
from fedlens.config.blocks import MODEL, find
from fedlens.federation.checkpoints import Checkpoint, Checkpoints
from fedlens.models.artefact import save_model
from fedlens.models.description import ModelDescription
from fedlens.models.lora import merged
from fedlens.tracking.metrics import read_metrics
from fedlens.tracking.run_dir import RunDir


def save_models(experiment: Experiment, folder: RunDir, end: Checkpoint, checkpoints: Checkpoints) -> None:
    """The best model by validation in `best/`, the final one in `model/`; the final one stays loaded."""
    accuracies = {line["round"]: (line["test"] or {}).get("accuracy") for line in read_metrics(folder.metrics)}
    best = checkpoints.load_best()
    if best is not None:
        experiment.trainer.load_shared(best)
        accuracy = accuracies.get(end.progress.best_round)
        save_model(folder.path / "best", merged(experiment.model), describe(experiment, accuracy))
    experiment.trainer.load_shared(end.state.shared)
    save_model(folder.model, merged(experiment.model), describe(experiment, accuracies.get(end.round)))


def describe(experiment: Experiment, accuracy: float | None) -> ModelDescription:
    """What `fedlens predict` needs to build the model again. A user's own module has no builder."""
    section, data = experiment.config.model, experiment.images
    builder, parameters = None, {}
    if experiment.configured:
        entry = find(MODEL, section.name)
        builder, parameters = entry.name, {**section.parameters, **entry.implied}
    return ModelDescription(
        builder=builder,
        num_classes=section.num_classes or len(data.class_names),
        class_names=data.class_names,
        image_size=max(data.sides),
        image_channels=data.channels,
        parameters=parameters,
        norm=section.norm,
        accuracy=accuracy,
        partly_private=experiment.partly_private,
    )
