"""Secure aggregation, first stage: a client makes its keys of this attempt, and sends the public ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fedlens.core.types import ClientInfo, ClientResult, State, Task, TaskSettings
from fedlens.secure_aggregation.client import advertise
from fedlens.secure_aggregation.keys import ADVERT_BYTES
from fedlens.secure_aggregation.session import Session
from fedlens.secure_aggregation.tensors import to_tensor
from fedlens.training import secure
from fedlens.training.loop import Stepped
from fedlens.training.screening import Expected
from fedlens.training.tasks.base import ServerView, task_kinds

if TYPE_CHECKING:
    from fedlens.training.client import ClientTrainer


@dataclass(frozen=True)
class KeysSettings(TaskSettings):
    """session: the attempt's name."""

    session: Annotated[str, Field(pattern="^[0-9a-f]{32}$")] = ""


@task_kinds.register("secure_keys", summary="secure aggregation: public keys of this attempt at a round")
@dataclass(frozen=True)
class SecureKeys(secure.SecureStage):
    """Result: `keys`, an advert (`secure_aggregation.keys`)."""

    settings = KeysSettings

    def run(self, trainer: ClientTrainer, task: Task, kept: State, stepped: Stepped) -> ClientResult:
        assert isinstance(task.settings, KeysSettings)
        session = Session(task.settings.session, task.round, task.stage.attempt)
        state, advert = advertise(task.client, session, trainer.registered)
        trainer.stage_of(task).save(state.kept())
        return secure.result(task, {"keys": to_tensor(advert)})

    def expected(self, task: Task, client: ClientInfo | None, view: ServerView) -> Expected:
        return secure.expected(keys=(ADVERT_BYTES,))

    def record(self, result: ClientResult) -> str:
        return f"round {result.round}: made keys for secure aggregation"
