"""What travels between the coordinator and the clients: plain frozen data, no behaviour.

Only the types in this file cross the seam between `federation.coordinator` and `runtimes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from torch import Tensor

State = Mapping[str, Tensor]
"""Named tensors."""

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class MeanMetric:
    """A metric that adds correctly: a weighted total and its weight."""

    total: float
    weight: float

    def __add__(self, other: MeanMetric) -> MeanMetric:
        return MeanMetric(self.total + other.total, self.weight + other.weight)

    @property
    def value(self) -> float:
        """total / weight; NaN when nothing was counted."""
        return self.total / self.weight if self.weight else float("nan")


Metrics = Mapping[str, MeanMetric]


@dataclass(frozen=True)
class ClientInfo:
    """One client, as it introduces itself. `counts`: images of each class, by split; `hidden`: it has images to train
    on, and does not say how many; `cross_site`: its model may go to other clients, and theirs may be tried on its
    images; `unlabelled`: training rows without a label."""

    name: str
    partition: int
    counts: Mapping[Split, tuple[int, ...]]
    device: str = "cpu"
    hidden: bool = False
    cross_site: bool = True
    unlabelled: int = 0

    @property
    def examples(self) -> int:
        """Training images; 1 where they are hidden: clients that hide them count alike."""
        return 1 if self.hidden else sum(self.counts["train"]) + self.unlabelled

    def holds(self, split: Split) -> bool:
        return any(self.counts[split])


@dataclass(frozen=True)
class TaskSettings:
    """The settings of a task, beside the model.

    lr      the clients' learning rate of the round
    repeat  number of the client's task within a round (0, 1, …), where an asynchronous schedule gives it several
    splits  of an evaluation: the clients' images to score
    """

    lr: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    repeat: Annotated[int, Field(ge=0)] = 0
    splits: tuple[Split, ...] = ()

    __pydantic_config__ = ConfigDict(extra="forbid")
    """Unknown fields are refused when settings are read from a message or a file."""


@dataclass(frozen=True)
class Stage:
    """One batch of tasks in a round of several.

    number   from 0
    last     no stage follows: what clients keep for this round alone is removed after it
    attempt  number of earlier attempts at this round; an attempt never reads what an earlier one saved
    """

    number: int = 0
    last: bool = True
    attempt: int = 0


@dataclass(frozen=True)
class Task:
    """Work for one client.

    round          the server's step that this task belongs to; an asynchronous task belongs to the step that its result
                   would go into if no other step came before
    kind           name of one of `fedlens.training.tasks`
    payload        tensors from the server: the shared model, and what a strategy adds
    store_version  version of the client's private store that the task starts from; None: no store yet
    unaggregated   the server needs the result itself: no worker may add it to its sum
    """

    client: str
    round: int
    kind: str
    payload: State
    settings: TaskSettings = TaskSettings()
    store_version: int | None = None
    unaggregated: bool = False
    stage: Stage = Stage()

    @property
    def version(self) -> int:
        """The version under which the client saves what it keeps from this task."""
        return following(self.store_version)


def following(version: int | None) -> int:
    """The version of a client's private store that comes after `version`."""
    return (version or 0) + 1


@dataclass(frozen=True)
class VirtualTime:
    """Where a virtual clock stands: seconds since the start of the run, and how many tasks were started by then."""

    now: float = 0.0
    started: int = 0


@dataclass(frozen=True)
class PendingTask:
    """A task that was given out and whose result the server has not used yet.

    On a virtual clock: `number`, the place of its start among all starts, and `due`, the moment when it comes back.
    """

    task: Task
    number: int = 0
    due: float = 0.0


@dataclass(frozen=True)
class BatchProgress:
    """Progress of a batch of tasks: clients done, and training steps of all of them. `all_steps` is 0 where steps are
    not counted, and an estimate until it is known. `waiting`: sites that have not answered yet, to be shown. `label`
    says which kind of work it is, "" for training."""

    round: int
    label: str
    clients: int
    all_clients: int
    steps: int = 0
    all_steps: int = 0
    waiting: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClientReport:
    """The numbers that a client reports for its task.

    weight        weight of its update in the mean
    stored        it saved private tensors under the task's version
    part_weights  part of the model → weight of the update's tensors in it, where that is not `weight`; the part "head"
                  is every tensor whose name is "head" or begins with "head."
    """

    client: str
    weight: float
    metrics: Metrics
    stored: bool = False
    part_weights: Mapping[str, float] = field(default_factory=dict)

    def weight_of(self, name: str) -> float:
        """The weight of the update's tensor called `name`."""
        part = part_of(name, self.part_weights)
        return self.weight if part is None else self.part_weights[part]


def part_of(name: str, parts: Iterable[str]) -> str | None:
    """The part of the model that the tensor called `name` belongs to: the longest one, where several fit."""
    return max((part for part in parts if f"{name}.".startswith(f"{part}.")), key=len, default=None)


@dataclass(frozen=True)
class ClientResult:
    """One client's finished task. `payload` is its update (after − before); `extra` is what a strategy adds. `decoded`:
    the transforms' encoding is already undone."""

    round: int
    kind: str
    report: ClientReport
    payload: State
    extra: State = field(default_factory=dict)
    decoded: bool = False

    @property
    def client(self) -> str:
        return self.report.client


@dataclass(frozen=True)
class PartialSum:
    """One worker's share of a synchronous sum: Σ w·update, Σ w, Σ extra over the clients in `reports`. `edge`: where
    there are edge aggregators, the one that all of these clients belong to."""

    round: int
    payload: State
    weight: float
    extra: State
    reports: tuple[ClientReport, ...]
    edge: int | None = None


@dataclass(frozen=True)
class ClientFailure:
    """A client without a usable result; the run continues without it. `answered`: the client reported the failure, or
    its result was refused; False when nothing came back."""

    client: str
    round: int
    reason: str
    answered: bool = True


def nbytes(state: State) -> float:
    """Bytes of all tensors together."""
    return float(sum(value.nbytes for value in state.values()))


def prefixed(prefix: str, state: State) -> dict[str, Tensor]:
    """The tensors of `state` under `prefix/name`."""
    return {f"{prefix}/{name}": value for name, value in state.items()}


def under(prefix: str, state: State) -> dict[str, Tensor]:
    """The tensors of `state` under `prefix/`, with the prefix removed."""
    return {name.removeprefix(f"{prefix}/"): value for name, value in state.items() if name.startswith(f"{prefix}/")}
