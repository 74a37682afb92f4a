"""Evaluate one model on the held-out images of many clients: each returns counts, which are added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fedlens.core.types import ClientInfo, ClientReport, ClientResult, MeanMetric, Split, State, Task
from fedlens.training.loop import Stepped
from fedlens.training.screening import Expected, check_confusion
from fedlens.training.tasks.base import ServerView, TaskKind, task_kinds

if TYPE_CHECKING:
    from fedlens.training.client import ClientTrainer


@task_kinds.register("evaluate_shared", summary="confusion counts of one model on the client's held-out images")
@dataclass(frozen=True)
class EvaluateShared(TaskKind):
    """Evaluates the shared model or, where parts of it are private, the model that the client uses. The payload of the
    result has one confusion matrix for each split of the task's settings in which the client has images."""

    flower_type = "evaluate"
    label = "held-out images: "

    def run(self, trainer: ClientTrainer, task: Task, kept: State, stepped: Stepped) -> ClientResult:
        local = trainer.received(task, kept)
        if trainer.partly_private:
            trainer.use_own_model(local)
        held = {split: trainer.held_out(task.client, split) for split in task.settings.splits}
        found = {split: trainer.score(examples) for split, examples in held.items() if len(examples)}
        metrics = {f"{split}.loss": MeanMetric(one.loss * one.examples, one.examples) for split, one in found.items()}
        weight = float(sum(one.examples for one in found.values()))
        counts = {str(split): torch.from_numpy(one.confusion) for split, one in found.items()}
        return ClientResult(task.round, task.kind, ClientReport(task.client, weight, metrics), counts)

    def expected(self, task: Task, client: ClientInfo | None, view: ServerView) -> Expected:
        counts: Mapping[Split, Sequence[int]] = client.counts if client else {}
        held_out = sum(counts.get("test", ())) + sum(counts.get("val", ()))
        return Expected(held_out, (), outputs=view.outputs, counts=counts, check_payload=check_confusion)

    def record(self, result: ClientResult) -> str:
        return f"tested on {int(result.report.weight)} images"
