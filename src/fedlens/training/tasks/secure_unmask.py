"""Secure aggregation, last stage: a client gives the shares that it holds, so that the sum can be unmasked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedlens.core.randomness import KEY_BYTES
from fedlens.core.types import ClientInfo, ClientResult, State, Task, TaskSettings
from fedlens.secure_aggregation.client import ClientState, unmask
from fedlens.secure_aggregation.tensors import parts, rows
from fedlens.training import secure
from fedlens.training.loop import Stepped
from fedlens.training.screening import Expected
from fedlens.training.tasks.base import ServerView, task_kinds

if TYPE_CHECKING:
    from fedlens.training.client import ClientTrainer


@dataclass(frozen=True)
class UnmaskSettings(TaskSettings):
    """signers  in the order of the payload's `signatures`: neighbours that signed the list of survivors
    senders  in the order of the payload's `shares`: neighbours that shared their secrets with this client
    """

    signers: secure.Names = ()
    senders: secure.Names = ()


@task_kinds.register("secure_unmask", summary="secure aggregation: the shares that a client holds")
@dataclass(frozen=True)
class SecureUnmask(secure.SecureStage):
    """Result: `shares`, a row for each sender and one for the client itself; zeros for a share that cannot be read."""

    settings = UnmaskSettings

    def run(self, trainer: ClientTrainer, task: Task, kept: State, stepped: Stepped) -> secure.Outcome:
        settings = task.settings
        assert isinstance(settings, UnmaskSettings)

        def work(state: ClientState) -> tuple[None, State]:
            signatures = parts(task.payload["signatures"], settings.signers)
            held = unmask(state, signatures, parts(task.payload["shares"], settings.senders))
            return None, {"shares": rows(held, (*settings.senders, task.client), KEY_BYTES)}

        return secure.stage(trainer, task, work)

    def expected(self, task: Task, client: ClientInfo | None, view: ServerView) -> Expected:
        assert isinstance(task.settings, UnmaskSettings)
        return secure.expected(shares=(len(task.settings.senders) + 1, KEY_BYTES))

    def record(self, result: ClientResult) -> str:
        return f"round {result.round}: gave {len(result.payload['shares'])} shares to open the sum"
