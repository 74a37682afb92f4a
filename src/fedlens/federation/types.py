"""What travels between the coordinator and the clients: plain frozen data, no behaviour.

Only the types in this file cross the seam between `federation.coordinator` and `runtimes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

State = Mapping[str, Tensor]
"""Named tensors."""

TaskKind = Literal["train", "evaluate", "count"]
"""evaluate: loss and accuracy on the client's own test images; count: confusion counts on its held-out images, for an
evaluation of the shared model that only all of them together can give."""

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Mean:
    """A metric that adds correctly: a weighted total and its weight."""

    total: float
    weight: float

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.weight + other.weight)

    @property
    def value(self) -> float:
        """total / weight; NaN when nothing was counted."""
        return self.total / self.weight if self.weight else float("nan")


Metrics = Mapping[str, Mean]


@dataclass(frozen=True)
class ClientInfo:
    """One client, as it introduces itself. `counts`: images of each class, by split."""

    name: str
    partition: int
    counts: Mapping[Split, tuple[int, ...]]
    device: str = "cpu"

    @property
    def examples(self) -> int:
        """Training images."""
        return sum(self.counts["train"])

    def holds(self, split: Split) -> bool:
        return any(self.counts[split])


@dataclass(frozen=True)
class Task:
    """Work for one client. `settings` are plain numbers of this round (learning rate, epochs, …); `expects`
    is the version of the client's private store that the server counts on (None: no store yet). `apart`: the answer
    is needed by itself, in no worker's sum.

    A round is a step of the server: an asynchronous task belongs to the round that its model would go into if no other
    step came before. `settings["again"]` tells a client's tasks of one round apart, where it is given several."""

    client: str
    round: int
    kind: TaskKind
    payload: State
    settings: Mapping[str, float] = field(default_factory=dict)
    expects: int | None = None
    apart: bool = False

    @property
    def version(self) -> int:
        """Under which the client keeps what it keeps of this task."""
        return following(self.expects)


def following(version: int | None) -> int:
    """The version of a client's private store that comes after `version`."""
    return (version or 0) + 1


@dataclass(frozen=True)
class Moment:
    """Where a virtual clock stands: seconds since the start of the run, and how many tasks were started by then."""

    now: float = 0.0
    started: int = 0


@dataclass(frozen=True)
class Flight:
    """A task that was given out and whose outcome has not been taken in.

    On a virtual clock: `number`, the place of its start among all starts, and `due`, the moment when it comes back.
    """

    task: Task
    number: int = 0
    due: float = 0.0


@dataclass(frozen=True)
class Standing:
    """How far a batch of tasks is: clients that are done, and training steps of all of them. `all_steps` is 0 where
    nobody counts them, and an estimate while it is not known. `waiting`: whom the batch waits for, for people, where
    these are sites."""

    round: int
    kind: TaskKind
    clients: int
    all_clients: int
    steps: int = 0
    all_steps: int = 0
    waiting: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """What one client says of its task: numbers only. `stored`: it kept private tensors, as the task's version."""

    client: str
    weight: float
    metrics: Metrics
    stored: bool = False


@dataclass(frozen=True)
class Answer:
    """One client's finished task. `payload` is its update (after − before); `extra` is what a strategy adds."""

    round: int
    kind: TaskKind
    report: Report
    payload: State
    extra: State = field(default_factory=dict)

    @property
    def client(self) -> str:
        return self.report.client


@dataclass(frozen=True)
class Partial:
    """One worker's share of a synchronous sum: Σ w·update, Σ w, Σ extra over the clients in `reports`."""

    round: int
    payload: State
    weight: float
    extra: State
    reports: tuple[Report, ...]


@dataclass(frozen=True)
class ClientFailure:
    """A client that gave no usable answer; the run goes on without it. `answered`: the client itself said so, or its
    answer was no good; False when nothing came back from it."""

    client: str
    round: int
    reason: str
    answered: bool = True
