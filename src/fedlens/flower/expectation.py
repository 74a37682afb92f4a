"""The expected form of each task's result; `training.screening` compares every result with it."""

from __future__ import annotations

from fedlens.build.experiment import Experiment
from fedlens.core.types import ClientInfo, Task
from fedlens.flower.runtime import Expect
from fedlens.training.screening import Expected
from fedlens.training.tasks.base import ServerView, kind_of

OWN_METRICS = ("loss", "accuracy")
SHARED_METRICS = ("shared.loss", "shared.accuracy")


def view_of(experiment: Experiment) -> ServerView:
    """The server's view of the model and the algorithm, from which results' forms follow."""
    trainer, config = experiment.trainer, experiment.config
    outputs = config.model.num_classes or len(experiment.images.class_names)
    own_metrics = OWN_METRICS + (SHARED_METRICS if trainer.shows_shared else ())
    return ServerView(
        experiment.resident, experiment.shared, experiment.algorithm, trainer.settings, outputs, own_metrics
    )


def expectation(view: ServerView) -> Expect:
    """(task, its client) → the expected form of the result, from the task's kind."""

    def expect(task: Task, client: ClientInfo | None) -> Expected:
        return kind_of(task.kind).expected(task, client, view)

    return expect
