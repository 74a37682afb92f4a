"""Secure aggregation, second stage: a client shares its secrets with its neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedlens.core.types import ClientInfo, ClientResult, State, Task, TaskSettings
from fedlens.secure_aggregation.client import ClientState, share
from fedlens.secure_aggregation.shares import SEALED_BYTES
from fedlens.secure_aggregation.tensors import parts, rows, to_tensor
from fedlens.training import secure
from fedlens.training.loop import Stepped
from fedlens.training.screening import Expected
from fedlens.training.tasks.base import ServerView, task_kinds

if TYPE_CHECKING:
    from fedlens.training.client import ClientTrainer


@dataclass(frozen=True)
class SharesSettings(TaskSettings):
    """neighbours  in the order of the payload's `keys`, their adverts
    threshold   shares that open a secret
    least       clients of `cohort` whose updates are added up, at least
    """

    neighbours: secure.Names = ()
    threshold: int = 0
    least: int = 0
    cohort: int = 0


@task_kinds.register("secure_shares", summary="secure aggregation: encrypted shares of a client's secrets")
@dataclass(frozen=True)
class SecureShares(secure.SecureStage):
    """Result: `shares`, encrypted, one row for each neighbour, and `commitment`, the hash of a seed."""

    settings = SharesSettings

    def run(self, trainer: ClientTrainer, task: Task, kept: State, stepped: Stepped) -> secure.Outcome:
        settings = task.settings
        assert isinstance(settings, SharesSettings)

        def work(state: ClientState) -> tuple[ClientState, State]:
            adverts = parts(task.payload["keys"], settings.neighbours)
            numbers = settings.threshold, settings.least, settings.cohort
            after, sealed, committed = share(state, adverts, *numbers, trainer.registered)
            sent = {"shares": rows(sealed, settings.neighbours, SEALED_BYTES), "commitment": to_tensor(committed)}
            return after, sent

        return secure.stage(trainer, task, work)

    def expected(self, task: Task, client: ClientInfo | None, view: ServerView) -> Expected:
        assert isinstance(task.settings, SharesSettings)
        return secure.expected(shares=(len(task.settings.neighbours), SEALED_BYTES), commitment=(32,))

    def record(self, result: ClientResult) -> str:
        return f"round {result.round}: shared secrets with {len(result.payload['shares'])} clients"
