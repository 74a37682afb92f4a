"""What else is measured of the shared model, beside its loss and accuracy on the test images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from fedlens.build.experiment import Experiment
from fedlens.build.inputs import inputs_of
from fedlens.core.records import Evaluation
from fedlens.core.types import State
from fedlens.data.held_out import held_out_alone, with_held_out
from fedlens.data.types import FederatedData, Rows
from fedlens.federation.coordinator import Measure
from fedlens.models.dual_encoder import DualEncoder
from fedlens.training.evaluation import evaluate
from fedlens.training.examples import Examples
from fedlens.training.retrieval import encoded, recalls


def measures(experiment: Experiment) -> Measure | None:
    """All that apply to the run; None where none does."""
    return all_of(
        backdoor_measure(experiment),
        modality_measure(experiment),
        zero_shot_measure(experiment),
        retrieval_measure(experiment),
    )


def backdoor_measure(experiment: Experiment) -> Measure | None:
    """How well a backdoor works: the share of test images of other classes that, with the trigger on them, are
    classified as its target. None where there is no backdoor, or nothing to try it on."""
    plan, data = experiment.algorithm.attack_plan, experiment.train_data
    trigger = plan and plan.attack.trigger()
    if not trigger:
        return None
    rows = data.test[data.labels.numpy()[data.test] != trigger.target]
    examples = replace(inputs_of(experiment, rows), poison=trigger.stamp)

    def measure(shared: State) -> Mapping[str, float]:
        experiment.resident.load(shared)
        return {"attack/success": _evaluated(experiment, examples, experiment.classes).accuracy}

    return measure if len(rows) else None


def modality_measure(experiment: Experiment) -> Measure | None:
    """Accuracy on the complete test images as they are, without texts, and without images: how well the model does with
    either. None where the model takes images alone, or no test image is complete."""
    data, rows = experiment.train_data, complete_tests(experiment)
    nobody = torch.zeros(len(data.labels), dtype=torch.bool)
    views = {
        "modality/both": data,
        "modality/image_only": replace(data, has_text=nobody),
        "modality/text_only": replace(data, has_image=nobody),
    }

    def measure(shared: State) -> Mapping[str, float]:
        experiment.resident.load(shared)
        return {
            name: _evaluated(experiment, replace(inputs_of(experiment, rows), data=view), experiment.classes).accuracy
            for name, view in views.items()
        }

    return measure if len(rows) else None


def zero_shot_measure(experiment: Experiment) -> Measure | None:
    """Accuracy on the images of held-out classes, by their names: among these classes alone, and among all. Their texts
    are not shown. None where no class is held out, no image shows one, or the model is not shared or does not recognise
    classes by names."""
    model, data = experiment.resident.module, experiment.train_data
    if data.held_out is None or experiment.partly_private or not isinstance(model, DualEncoder):
        return None
    rows = data.held_out.rows
    shown = replace(data.held_out, rows=rows if data.has_image is None else rows[data.has_image.numpy()[rows]])
    images_alone = replace(data, has_text=torch.zeros(len(data.labels), dtype=torch.bool), held_out=shown)
    if not len(shown.rows):
        return None
    views = {"zero_shot/all": with_held_out(images_alone)}
    if len(shown.class_names) > 1:  # one name alone is always right
        views["zero_shot/held_out"] = held_out_alone(images_alone)
    own = model.class_inputs
    read = {name: model.read_classes(view.class_names) for name, view in views.items()}

    def measure(shared: State) -> Mapping[str, float]:
        experiment.resident.load(shared)
        try:
            return {name: _of_classes(experiment, model, view, read[name]) for name, view in views.items()}
        finally:
            model.class_inputs = own

    return measure


def retrieval_measure(experiment: Experiment) -> Measure | None:
    """How often the texts of images, and the images of texts, are found among all complete test rows. None where the
    model does not compare images with texts, or no test image is complete."""
    model, rows = experiment.resident.module, complete_tests(experiment)
    if not isinstance(model, DualEncoder) or not len(rows):
        return None
    examples, memory = inputs_of(experiment, rows), experiment.config.memory

    def measure(shared: State) -> Mapping[str, float]:
        experiment.resident.load(shared)
        return recalls(encoded(model, examples, precision=memory.precision, batch_size=memory.micro_batch))

    return measure


def complete_tests(experiment: Experiment) -> Rows:
    """The test rows that have an image and a text; none where the model takes images alone, or is not shared."""
    data = experiment.train_data
    if data.text_inputs is None or experiment.partly_private:
        return data.test[:0]
    complete = torch.ones(len(data.labels), dtype=torch.bool)
    for has in (data.has_image, data.has_text):
        complete = complete if has is None else complete & has
    rows: Rows = data.test[complete[torch.from_numpy(data.test)].numpy()]
    return rows


def all_of(*some: Measure | None) -> Measure | None:
    """One measure of what all of them measure; None without any."""
    known = [measure for measure in some if measure is not None]
    return (lambda shared: {name: value for one in known for name, value in one(shared).items()}) if known else None


def _of_classes(experiment: Experiment, model: DualEncoder, view: FederatedData, classes: torch.Tensor) -> float:
    """Accuracy on the test rows of `view` when `classes` are those of the model."""
    model.class_inputs = classes
    examples = replace(inputs_of(experiment, view.test), data=view)
    return _evaluated(experiment, examples, len(view.class_names)).accuracy


def _evaluated(experiment: Experiment, examples: Examples, classes: int) -> Evaluation:
    """The resident model as it stands, on `examples`."""
    memory = experiment.config.memory
    return evaluate(
        experiment.resident.module, examples, classes, precision=memory.precision, batch_size=memory.micro_batch
    )
