"""Evaluate the model that a client uses, on its own test images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedlens.core.records import Evaluation
from fedlens.core.types import ClientInfo, ClientReport, ClientResult, MeanMetric, State, Task
from fedlens.training.loop import Stepped
from fedlens.training.screening import Expected
from fedlens.training.tasks.base import ServerView, TaskKind, task_kinds

if TYPE_CHECKING:
    from fedlens.training.client import ClientTrainer


@task_kinds.register("evaluate", summary="loss and accuracy of the client's model on its own test images")
@dataclass(frozen=True)
class Evaluate(TaskKind):
    """If clients use their own models while the whole shared model exists too, the shared one is evaluated as well."""

    flower_type = "evaluate"
    label = "clients' tests: "

    def run(self, trainer: ClientTrainer, task: Task, kept: State, stepped: Stepped) -> ClientResult:
        examples = trainer.held_out(task.client, "test")
        local = trainer.received(task, kept)
        metrics = metrics_of(trainer.score(examples), "shared.") if trainer.shows_shared else {}
        trainer.use_own_model(local)
        metrics |= metrics_of(trainer.score(examples))
        return ClientResult(task.round, task.kind, ClientReport(task.client, float(len(examples)), metrics), {})

    def expected(self, task: Task, client: ClientInfo | None, view: ServerView) -> Expected:
        held_out = sum(client.counts["test"]) if client else 0
        return Expected(held_out, view.own_metrics, whole=True)

    def record(self, result: ClientResult) -> str:
        accuracy = result.report.metrics["accuracy"].value
        return f"round {result.round}: accuracy {100 * accuracy:.1f} % on {int(result.report.weight)} images"


def metrics_of(found: Evaluation, prefix: str = "") -> dict[str, MeanMetric]:
    """Loss and accuracy as metrics that can be added."""
    count = float(found.examples)
    return {
        f"{prefix}loss": MeanMetric(found.loss * count, count),
        f"{prefix}accuracy": MeanMetric(found.accuracy * count, count),
    }
