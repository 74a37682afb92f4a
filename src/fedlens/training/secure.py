"""What the task kinds of a securely aggregated round (`training/tasks/secure_*.py`) have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from fedlens.core import clean
from fedlens.core.types import ClientFailure, ClientReport, ClientResult, State, Task
from fedlens.errors import ProtocolError
from fedlens.secure_aggregation.client import ClientState
from fedlens.training.screening import Expected, Shapes
from fedlens.training.tasks.base import TaskKind

if TYPE_CHECKING:
    from fedlens.training.client import ClientTrainer


class SecureStage(TaskKind):
    """A stage of which the messages are keys and shares, and no model."""

    staged = True
    needs_model = False
    label = "secure aggregation: "


Names = tuple[Annotated[str, Field(min_length=1, max_length=clean.LONGEST_NAME)], ...]
Outcome = ClientResult | ClientFailure


def stage(
    trainer: ClientTrainer, task: Task, work: Callable[[ClientState], tuple[ClientState | None, State]]
) -> Outcome:
    """One stage after the first: from what the client kept to what it keeps (None: nothing) and sends. What does not
    fit is this client's failure."""
    own = trainer.stage_of(task)
    try:
        kept, sent = work(ClientState.of(own.read()))
    except ProtocolError as error:
        return failure(task, error)
    if kept is not None:
        own.save(kept.kept())
    return result(task, sent)


def result(task: Task, sent: State) -> ClientResult:
    """A result without numbers of the client's own."""
    return ClientResult(task.round, task.kind, ClientReport(task.client, 1.0, {}), sent)


def failure(task: Task, error: ProtocolError) -> ClientFailure:
    return ClientFailure(task.client, task.round, f"secure aggregation: {error}")


def expected(**shapes: tuple[int, ...]) -> Expected:
    """A result of bytes, in those shapes."""
    forms: Shapes = {name: (torch.uint8, shape) for name, shape in shapes.items()}
    return Expected(1, (), forms)
