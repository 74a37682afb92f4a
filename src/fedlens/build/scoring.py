"""How a run's models are evaluated: here on the server's images, or by the clients on theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from fedlens.build.builders import build_plan, preprocessing_of
from fedlens.build.experiment import Experiment
from fedlens.core.records import Evaluation
from fedlens.core.types import State
from fedlens.data.types import Rows
from fedlens.federation.checkpoints import Checkpoint
from fedlens.federation.coordinator import Evaluate, Measure
from fedlens.federation.cross_site import CrossSiteEvaluation
from fedlens.federation.evaluator import FederatedEvaluator
from fedlens.models.base import prepare
from fedlens.runtimes.base import Runtime
from fedlens.training.evaluation import Seen, evaluate, unseen
from fedlens.training.examples import Examples


@dataclass(frozen=True)
class Scoring:
    """How the shared model is scored on test and on validation images, and what else is measured of it; None where
    there are none."""

    test: Evaluate | None
    validation: Evaluate | None
    measure: Measure | None = None
    tests_here: bool = True
    """The test images are the server's; else they are the clients'."""

    def by_server(self) -> Scoring:
        """The scoring on images that are not the clients': validation images always are."""
        return replace(self, test=self.test if self.tests_here else None, validation=None)


def inputs_of(experiment: Experiment, rows: Rows) -> Examples:
    """Rows preprocessed for the trained model, without augmentation."""
    how = partial(prepare, how=preprocessing_of(experiment.model, experiment.images))
    channels_last = experiment.config.memory.channels_last
    return Examples(experiment.train_data, rows, how, experiment.device, channels_last=channels_last)


def shared_model_scorer(experiment: Experiment, rows: Rows, seen: Seen = unseen) -> Evaluate | None:
    """Evaluates a run's shared model on `rows`, and reports progress to `seen`; None without rows, or where parts of
    the model stay with the clients."""
    if experiment.partly_private or not len(rows):
        return None
    examples, memory = inputs_of(experiment, rows), experiment.config.memory

    def score(checkpoint: Checkpoint) -> Evaluation:
        experiment.resident.load(checkpoint.state.shared)
        return evaluate(
            experiment.resident.module,
            examples,
            experiment.classes,
            precision=memory.precision,
            batch_size=memory.micro_batch,
            ranked=True,
            seen=seen,
        )

    return score


def backdoor_measure(experiment: Experiment) -> Measure | None:
    """How well a backdoor works: the share of test images of other classes that, with the trigger on them, are
    classified as its target. None where there is no backdoor, or nothing to try it on."""
    plan, data, memory = experiment.algorithm.attack_plan, experiment.train_data, experiment.config.memory
    trigger = plan and plan.attack.trigger()
    if not trigger:
        return None
    rows = data.test[data.labels.numpy()[data.test] != trigger.target]
    examples = replace(inputs_of(experiment, rows), poison=trigger.stamp)

    def measure(shared: State) -> Mapping[str, float]:
        experiment.resident.load(shared)
        found = evaluate(
            experiment.resident.module,
            examples,
            experiment.classes,
            precision=memory.precision,
            batch_size=memory.micro_batch,
        )
        return {"attack/success": found.accuracy}

    return measure if len(rows) else None


def modality_measure(experiment: Experiment) -> Measure | None:
    """Accuracy on the complete test images as they are, without texts, and without images: how well the model does with
    either. None where the model takes images alone, or no test image is complete."""
    data, memory = experiment.train_data, experiment.config.memory
    if data.text_inputs is None or experiment.partly_private:
        return None
    complete = torch.ones(len(data.labels), dtype=torch.bool)
    for has in (data.has_image, data.has_text):
        complete = complete if has is None else complete & has
    rows = data.test[complete[torch.from_numpy(data.test)].numpy()]
    nobody = torch.zeros_like(complete)
    views = {
        "modality/both": data,
        "modality/image_only": replace(data, has_text=nobody),
        "modality/text_only": replace(data, has_image=nobody),
    }

    def measure(shared: State) -> Mapping[str, float]:
        experiment.resident.load(shared)
        return {
            name: evaluate(
                experiment.resident.module,
                replace(inputs_of(experiment, rows), data=view),
                experiment.classes,
                precision=memory.precision,
                batch_size=memory.micro_batch,
            ).accuracy
            for name, view in views.items()
        }

    return measure if len(rows) else None


def all_of(*measures: Measure | None) -> Measure | None:
    """One measure of what all of them measure; None without any."""
    known = [measure for measure in measures if measure is not None]
    return (lambda shared: {name: value for one in known for name, value in one(shared).items()}) if known else None


def cross_site_evaluation(
    experiment: Experiment, runtime: Runtime, spool: Path, note: Callable[[str], None]
) -> CrossSiteEvaluation:
    """Clients predict with the learning rate of the round reached. Where they train the shared model once more it is
    that of the configuration, because a schedule may have come to its end."""
    config, own = experiment.config, experiment.trainer.has_own_model
    return CrossSiteEvaluation(
        runtime,
        own=own,
        shared=not experiment.partly_private,
        lr=build_plan(config).lr if own else lambda _round: config.optimizer.lr,
        except_for=experiment.malicious,
        spool=spool,
        note=note,
    )


def scoring_by_clients(experiment: Experiment, runtime: Runtime) -> Scoring:
    """Scoring where parts of the model are private. There is no test accuracy, for there is no complete shared model.
    Validation is that of the personal models of clients that have trained and do not attack, on their own images."""
    lr, malicious = build_plan(experiment.config).lr, experiment.malicious
    evaluator = FederatedEvaluator(runtime, ("val",), lr, personal=True, malicious=malicious)
    return Scoring(None, partial(evaluator, "val"))
