"""The interface of task kinds: what a client does for a task, and what the server expects of the result.

A new kind is one file in this package; there is no central list.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, cast

from pydantic import TypeAdapter
from torch import Tensor

from fedlens.core.registry import Registry
from fedlens.core.types import ClientFailure, ClientInfo, ClientResult, State, Task, TaskSettings
from fedlens.training.algorithm import Algorithm
from fedlens.training.flat import FlatModel
from fedlens.training.loop import Stepped
from fedlens.training.screening import Expected
from fedlens.training.settings import LocalSettings

if TYPE_CHECKING:
    from fedlens.training.client import ClientTrainer

T = TypeVar("T")


@dataclass(frozen=True)
class ServerView:
    """What the server knows when it derives a valid result's form.

    resident     a model of the same structure as the clients'
    shared       the shared tensors of it
    outputs      output size of the model
    own_metrics  names of the metrics that clients measure on their own test images
    """

    resident: FlatModel
    shared: State
    algorithm: Algorithm
    settings: LocalSettings
    outputs: int
    own_metrics: tuple[str, ...]
    _made: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    _received: dict[str, tuple[object, Any]] = field(default_factory=dict, repr=False, compare=False)

    def once(self, what: str, make: Callable[[], T]) -> T:
        """`make()`, called once for each `what`: results of one kind have the same form at every client."""
        if what not in self._made:
            self._made[what] = make()
        return cast(T, self._made[what])

    def once_for_payload(self, task: Task, make: Callable[[], T]) -> T:
        """`make()`, called once for all tasks of one kind, round and stage with the same payload; the last one is
        kept."""
        of = (task.round, task.stage, id(task.payload))
        if task.kind not in self._received or self._received[task.kind][0] != of:
            self._received[task.kind] = of, make()
        return cast(T, self._received[task.kind][1])

    @cached_property
    def forms(self) -> dict[str, Tensor]:
        """The names, shapes and types of an update, without memory."""
        return {name: value.to("meta") for name, value in self.shared.items()}


class TaskKind(ABC):
    """One kind of task.

    settings      type of its settings: a frozen dataclass that is sent in messages
    flower_type   Flower's message type
    writes_store  it may write to the client's private store
    takes_time    it takes time on the virtual clock; other tasks finish at once
    aggregated    its results are updates that are aggregated
    staged        it uses client state that lasts from stage to stage of a round (`trainer.stage_of(task)`)
    needs_model   its payload has the shared model
    cross_site    it gives a client's model away, or tries another client's: only where a site's rules allow it
    label         text shown before its progress
    """

    settings: ClassVar[type[TaskSettings]] = TaskSettings
    flower_type: ClassVar[Literal["train", "evaluate", "query"]] = "query"
    writes_store: ClassVar[bool] = False
    takes_time: ClassVar[bool] = False
    aggregated: ClassVar[bool] = False
    staged: ClassVar[bool] = False
    needs_model: ClassVar[bool] = True
    cross_site: ClassVar[bool] = False
    label: ClassVar[str] = ""

    @abstractmethod
    def run(self, trainer: ClientTrainer, task: Task, kept: State, stepped: Stepped) -> ClientResult | ClientFailure:
        """The client's part. `kept`: the client's stored state; `stepped` is called after every gradient computation.

        Raises:
            KeyError: a part of the model is missing from the task.
            CheckpointError: the client's state cannot be written.
        """

    @abstractmethod
    def expected(self, task: Task, client: ClientInfo | None, view: ServerView) -> Expected:
        """What a valid result looks like. `client` is None if only the size of the result is needed."""

    @abstractmethod
    def record(self, result: ClientResult) -> str:
        """One line for the site's console, with this client's figures only."""

    def steps(self, trainer: ClientTrainer, task: Task) -> int:
        """The maximum number of gradient computations in the task; 0 where steps are not counted."""
        return 0


task_kinds: Registry[TaskKind] = Registry("task kind", "fedlens.training.tasks")


@cache
def kind_of(name: str) -> TaskKind:
    """The task kind called `name`.

    Raises:
        ConfigError: there is no such kind.
    """
    return task_kinds.get(name).build({})


@cache
def settings_adapter(kind: str) -> TypeAdapter[TaskSettings]:
    """Reads and writes the settings of tasks of that kind.

    Raises:
        ConfigError: there is no such kind.
    """
    return TypeAdapter(kind_of(kind).settings)
