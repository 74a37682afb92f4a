"""Evaluate a model of somebody else on the client's own test images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedlens.core.types import ClientInfo, ClientReport, ClientResult, State, Task
from fedlens.training.loop import Stepped
from fedlens.training.screening import Expected
from fedlens.training.tasks.base import ServerView, TaskKind, task_kinds
from fedlens.training.tasks.evaluate import metrics_of

if TYPE_CHECKING:
    from fedlens.training.client import ClientTrainer


@task_kinds.register("evaluate_given", summary="accuracy of a given model on the client's own test images")
@dataclass(frozen=True)
class EvaluateGiven(TaskKind):
    """The payload is a whole model, in plain form: nothing that the client keeps is used."""

    flower_type = "evaluate"
    cross_site = True
    label = "other clients' models: "

    def run(self, trainer: ClientTrainer, task: Task, kept: State, stepped: Stepped) -> ClientResult:
        if missing := sorted(trainer.model.names - task.payload.keys()):
            raise KeyError(missing[0])
        trainer.model.load(task.payload)
        examples = trainer.held_out(task.client, "test")
        metrics = {"accuracy": metrics_of(trainer.score(examples))["accuracy"]}  # the loss of some models is no number
        return ClientResult(task.round, task.kind, ClientReport(task.client, float(len(examples)), metrics), {})

    def expected(self, task: Task, client: ClientInfo | None, view: ServerView) -> Expected:
        held_out = sum(client.counts["test"]) if client else 0
        return Expected(held_out, ("accuracy",), whole=True)

    def record(self, result: ClientResult) -> str:
        return f"tried a model on {int(result.report.weight)} images"
