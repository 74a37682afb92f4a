"""Secure aggregation, fourth stage: a client signs the list of those whose masked updates the server has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedlens.core.types import ClientInfo, ClientResult, State, Task, TaskSettings
from fedlens.secure_aggregation.client import ClientState, consent
from fedlens.secure_aggregation.keys import SIGNATURE_BYTES
from fedlens.secure_aggregation.tensors import to_tensor
from fedlens.training import secure
from fedlens.training.loop import Stepped
from fedlens.training.screening import Expected
from fedlens.training.tasks.base import ServerView, task_kinds

if TYPE_CHECKING:
    from fedlens.training.client import ClientTrainer


@dataclass(frozen=True)
class SurvivorsSettings(TaskSettings):
    survivors: secure.Names = ()


@task_kinds.register("secure_survivors", summary="secure aggregation: a client's signature of the list of survivors")
@dataclass(frozen=True)
class SecureSurvivors(secure.SecureStage):
    """Result: `signature`."""

    settings = SurvivorsSettings

    def run(self, trainer: ClientTrainer, task: Task, kept: State, stepped: Stepped) -> secure.Outcome:
        settings = task.settings
        assert isinstance(settings, SurvivorsSettings)

        def work(state: ClientState) -> tuple[ClientState, State]:
            after, signature = consent(state, settings.survivors)
            return after, {"signature": to_tensor(signature)}

        return secure.stage(trainer, task, work)

    def expected(self, task: Task, client: ClientInfo | None, view: ServerView) -> Expected:
        return secure.expected(signature=(SIGNATURE_BYTES,))

    def record(self, result: ClientResult) -> str:
        return f"round {result.round}: signed the list of the clients that are added up"
