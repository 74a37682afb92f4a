"""Training tasks of several clients whose steps are one computation (`training.vectorized`)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from fedlens.core.types import ClientFailure, ClientResult, Task
from fedlens.errors import PrivacyBudgetExceeded
from fedlens.training.client import ClientTrainer
from fedlens.training.device import enough_memory
from fedlens.training.dropout import ClientDraws
from fedlens.training.loop import STEPS, Stepped, unseen
from fedlens.training.tasks.train import Begun, Fitted, Train
from fedlens.training.vectorized import StackedLoop, StackedModel

Outcome = ClientResult | ClientFailure

TRAIN = "train"
"""The kind of tasks that clients can do together."""


def stacks(trainer: ClientTrainer, tasks: Sequence[Task]) -> list[Sequence[Task]]:
    """`tasks` in the order in which they are run, those of a stack together. Clients with similar numbers of steps are
    in one stack, because a stack takes as long as its longest client."""
    if trainer.vectorize == 1 or any(task.kind != TRAIN for task in tasks):
        return [[task] for task in tasks]
    if trainer.vectorizing.obstacle is not None:
        return [[task] for task in tasks]
    ordered = sorted(tasks, key=trainer.steps, reverse=True)
    return [ordered[first : first + trainer.vectorize] for first in range(0, len(ordered), trainer.vectorize)]


def run_stack(trainer: ClientTrainer, tasks: Sequence[Task], stepped: Stepped) -> list[Outcome]:
    """`ClientTrainer.run_on_device` for each task of a stack.

    Raises:
        KeyError, CheckpointError, OutOfMemory: as `ClientTrainer.run_on_device`.
    """
    if len(tasks) == 1:
        return [trainer.run_on_device(tasks[0], stepped)]
    with enough_memory():
        return [*_trained(trainer, tasks, stepped)]


def _trained(trainer: ClientTrainer, tasks: Sequence[Task], stepped: Stepped) -> Iterator[Outcome]:
    kind, stack, clients = Train(), StackedModel(trainer.model, len(tasks)), []
    draws = ClientDraws(trainer.model.device)
    for row, task in enumerate(tasks):
        with trainer.repeatable(task):
            clients.append(kind.begin(trainer, task, trainer.opened(task), unseen))
            draws.keep()
        stack.take(row)
    began = time.perf_counter()
    ready, way = clients[0].local.ready, trainer.vectorizing
    loop = StackedLoop(stack, trainer.settings, ready, draws, pads=way.pads, maps=way.maps, stepped=stepped)
    with trainer.repeatable(tasks[0]):
        metrics = loop.run([(begun.local, begun.terms) for begun in clients])
    pace = (time.perf_counter() - began) / max(sum(own[STEPS].total for own in metrics), 1)
    for row, (begun, own) in enumerate(zip(clients, metrics, strict=True)):
        stack.give(row)
        with trainer.repeatable(begun.task):
            draws.resume(row)
            outcome = _finished(trainer, kind, begun, Fitted(own, pace * own[STEPS].total))
        yield outcome


def _finished(trainer: ClientTrainer, kind: Train, begun: Begun, fitted: Fitted) -> Outcome:
    """A client that may not spend the privacy that its result would cost fails, and no other."""
    try:
        return kind.finish(trainer, begun, fitted)
    except PrivacyBudgetExceeded as error:
        return ClientFailure(begun.task.client, begun.task.round, str(error))
