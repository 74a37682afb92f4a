"""Give the client's own model to the server, which lets other clients try it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fedlens.core.types import ClientFailure, ClientInfo, ClientReport, ClientResult, State, Task
from fedlens.training.context import ResidentTrainingContext
from fedlens.training.loop import Stepped
from fedlens.training.screening import Expected, shapes_of
from fedlens.training.tasks.base import ServerView, TaskKind, task_kinds
from fedlens.training.tasks.train import MODEL_DIVERGED

if TYPE_CHECKING:
    from fedlens.training.client import ClientTrainer


@task_kinds.register("own_model", summary="the model that the client uses, private parts included")
@dataclass(frozen=True)
class OwnModel(TaskKind):
    """With a personalization, the model that the client predicts with. Without one all clients use the same model: then
    it is that one after the local epochs of a round, by plain steps of the configured optimizer."""

    flower_type = "train"
    cross_site = True
    label = "clients' own models: "

    def steps(self, trainer: ClientTrainer, task: Task) -> int:
        if trainer.has_own_model:
            return 0
        settings = trainer.settings
        return settings.epochs * math.ceil(trainer.images_of(task.client) / settings.batch_size)

    def run(self, trainer: ClientTrainer, task: Task, kept: State, stepped: Stepped) -> ClientResult | ClientFailure:
        if trainer.has_own_model:  # with the draws with which it is measured at home
            trainer.load_client_model(replace(task, kind="evaluate"))
        else:
            train_on(trainer.received(task, kept, stepped))
        if not trainer.model.is_finite():
            return ClientFailure(task.client, task.round, MODEL_DIVERGED)
        model = {name: value.cpu() for name, value in trainer.model.state().items()}
        return ClientResult(task.round, task.kind, ClientReport(task.client, 1.0, {}), model)

    def expected(self, task: Task, client: ClientInfo | None, view: ServerView) -> Expected:
        return Expected(1, (), view.once(task.kind, lambda: shapes_of(view.resident.state())))

    def record(self, result: ClientResult) -> str:
        return "gave its own model, for other clients to try"


def train_on(local: ResidentTrainingContext) -> None:
    """Train the model for the local epochs of a round; no effect without images."""
    if local.examples:
        local.fit(local.epochs, optimizer="fresh")
