"""What the server makes of Flower's error replies: an app has failed, or a node has gone, and may come back."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from flwr.app import Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedlens.core.types import ClientFailure, Task, TaskSettings
from fedlens.flower.app import GivenGrid
from fedlens.flower.client_manager import Bounds
from fedlens.flower.messages import HEAD, Description, Prepared, Setup, reply
from fedlens.flower.runtime import FlowerRuntime
from fedlens.training.screening import Expected

CRASHED, GONE = 8, 5
"""Flower's codes for an app that died over a message, and for a node that is offline."""

WHO = Description("client1", 0, "identity", ("cup",), 5, 28, 3, "cpu", "0", "1.38", 0.0)


class Grid:
    """One node. It replies to a task with an error, and to everything else as a site does."""

    def __init__(self, kind: str, code: int) -> None:
        self._kind = kind
        self._code = code
        self._replies: dict[str, Message] = {}
        self.sent: list[str] = []

    def get_node_ids(self) -> Iterable[int]:
        return [] if self._code == GONE and self._kind in self.sent else [7]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        names = []
        for message in messages:
            name = str(len(self.sent))
            names.append(name)
            message.metadata.__dict__["_message_id"] = name
            kind = str(message.content[HEAD]["kind"])
            self.sent.append(kind)
            content = {"describe": WHO, "prepare": Prepared((5,), (0,), (0,))}.get(kind)
            failed = kind == self._kind
            self._replies[name] = (
                Message(Error(self._code, "ClientApp stopped responding."), reply_to=message)
                if failed
                else Message(reply(content) if content else RecordDict(), reply_to=message)
            )
        return names

    def pull_messages(self, names: Iterable[str]) -> list[Message]:
        return [self._replies.pop(name) for name in names if name in self._replies]


@pytest.fixture(autouse=True)
def inside_a_run(monkeypatch) -> None:
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def runtime_over(grid: Grid, notes: list[str]) -> FlowerRuntime:
    runtime = FlowerRuntime(GivenGrid(grid), "run", deadline=60, rejoin=0.2, bounds=Bounds(100, 5), note=notes.append)
    runtime.open(Setup("run", {}, ("cup",), 28, 3), lambda _task, _client: Expected(5, ()))
    return runtime


def failure(code: int) -> tuple[ClientFailure, Grid]:
    grid = Grid("train", code)
    runtime = runtime_over(grid, [])
    assert [info.name for info in runtime.clients(1)] == ["client1"]
    runtime.submit([Task("client1", 1, "train", {"weight": torch.zeros(2)}, TaskSettings(lr=0.1))])
    (outcome,) = runtime.completed()
    assert isinstance(outcome, ClientFailure)
    return outcome, grid


def test_an_app_that_died_over_a_task_has_failed_and_is_not_asked_again() -> None:
    outcome, grid = failure(CRASHED)
    assert "ClientApp stopped responding" in outcome.reason and outcome.answered
    assert grid.sent.count("train") == 1


def test_an_app_that_dies_over_the_first_question_stays_out_and_is_named() -> None:
    notes: list[str] = []
    runtime = runtime_over(Grid("describe", CRASHED), notes)
    assert runtime.clients() == []
    assert notes == ["node 7 stays out: Flower reports: ClientApp stopped responding."]


def test_a_node_that_is_gone_has_not_answered() -> None:
    outcome, _ = failure(GONE)
    assert outcome.reason == "the connection to it was lost" and not outcome.answered
