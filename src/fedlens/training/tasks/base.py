"""The seam of task kinds: what a client does with a task, and what the server knows of its result.

A new kind is one file in this package; nothing else lists the kinds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import TypeAdapter

from fedlens.core.registry import Registry
from fedlens.core.types import ClientFailure, ClientInfo, ClientResult, State, Task, TaskSettings
from fedlens.training.algorithm import Algorithm
from fedlens.training.flat import FlatModel
from fedlens.training.loop import Stepped
from fedlens.training.screening import Expected
from fedlens.training.settings import LocalSettings

if TYPE_CHECKING:
    from fedlens.training.client import ClientTrainer


@dataclass(frozen=True)
class ServerView:
    """What a server knows when it says what honest results look like.

    resident     a model of the same form as the clients'
    shared       what travels of it
    outputs      of the model
    own_metrics  names of what clients measure on their own test images
    """

    resident: FlatModel
    shared: State
    algorithm: Algorithm
    settings: LocalSettings
    outputs: int
    own_metrics: tuple[str, ...]


class TaskKind(ABC):
    """One kind of task.

    settings      type of its settings: a frozen dataclass, for messages
    flower_type   of its messages
    writes_store  it may write to the client's private store
    takes_time    on the virtual clock; what does not is done at once
    aggregated    its results are updates that are added up
    staged        it uses what the client keeps from stage to stage of a round (`trainer.stage_of(task)`)
    label         before its progress, for people
    """

    settings: ClassVar[type[TaskSettings]] = TaskSettings
    flower_type: ClassVar[Literal["train", "evaluate", "query"]] = "query"
    writes_store: ClassVar[bool] = False
    takes_time: ClassVar[bool] = False
    aggregated: ClassVar[bool] = False
    staged: ClassVar[bool] = False
    label: ClassVar[str] = ""

    @abstractmethod
    def run(self, trainer: ClientTrainer, task: Task, kept: State, stepped: Stepped) -> ClientResult | ClientFailure:
        """The client's part. `kept`: what is in its private store; `stepped` is called at every gradient.

        Raises:
            KeyError: the task lacks a part of the model.
            CheckpointError: what the client keeps cannot be written.
        """

    @abstractmethod
    def expected(self, task: Task, client: ClientInfo | None, view: ServerView) -> Expected:
        """What an honest result looks like. `client` is None where only its size is asked."""

    @abstractmethod
    def record(self, result: ClientResult) -> str:
        """One line for people at the site: numbers of this site alone."""

    def steps(self, trainer: ClientTrainer, task: Task) -> int:
        """The most gradients that the task takes; 0 where nobody counts them."""
        return 0


task_kinds: Registry[TaskKind] = Registry("task kind", "fedlens.training.tasks")


@cache
def kind_of(name: str) -> TaskKind:
    """The task kind called `name`.

    Raises:
        ConfigError: there is none.
    """
    return task_kinds.get(name).build({})


@cache
def settings_adapter(kind: str) -> TypeAdapter[TaskSettings]:
    """Reads and writes the settings of tasks of that kind.

    Raises:
        ConfigError: there is no such kind.
    """
    return TypeAdapter(kind_of(kind).settings)
