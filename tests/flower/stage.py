"""A server's runtime over a SuperLink in memory, and small sites that join it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from flwr.app import Message, RecordDict
from tests.flower.fakes import FakeLink, FakeSuperLink, Script, TinySite, altering
from tests.helpers import CPU, tiny_data, tiny_model, tiny_trainer

from fedlens.core.types import ClientFailure, State, Task, TaskSettings
from fedlens.flower.client_manager import Bounds
from fedlens.flower.codec import arrays, tensors
from fedlens.flower.expectation import OWN_METRICS, expectation
from fedlens.flower.messages import Setup
from fedlens.flower.runtime import Expect, FlowerRuntime
from fedlens.strategies.fedavg import FedAvg
from fedlens.training.algorithm import Algorithm
from fedlens.training.flat import FlatModel
from fedlens.training.settings import LocalSettings
from fedlens.training.tasks.base import ServerView

DATA = tiny_data(clients=4)
SETTINGS = LocalSettings(batch_size=4)
SETUP = Setup("run-1", {}, DATA.class_names, 8, 1)
SHARED = FlatModel(tiny_model(), CPU).state()
BOUNDS = Bounds(examples=1000, classes=5)


def view(
    model: FlatModel,
    shared: State,
    own_metrics: tuple[str, ...] = OWN_METRICS,
    algorithm: Algorithm = Algorithm(FedAvg()),  # noqa: B008
) -> ServerView:
    """What the server of a stage knows of its clients' work."""
    return ServerView(model, shared, algorithm, SETTINGS, 3, own_metrics)


class Stage:
    """A server, its SuperLink, and what it said. `come_back`: clients that join a SuperLink that was replaced."""

    def __init__(self, folder, *, deadline=30.0, rejoin=0.05, come_back: tuple[int, ...] = ()) -> None:
        self.folder = folder
        self.notes: list[str] = []
        self.superlink = FakeSuperLink()
        self.link = FakeLink(self.superlink, self._replaced if come_back else None)
        self._come_back = come_back
        self.runtime = FlowerRuntime(
            self.link, "run-1", deadline=deadline, rejoin=rejoin, bounds=BOUNDS, note=self.notes.append
        )
        self.nodes: dict[str, int] = {}

    def _replaced(self, superlink: FakeSuperLink) -> None:
        self.superlink = superlink
        for index in self._come_back:
            self.join(index)

    def site(self, index: int, **changes) -> TinySite:
        name = f"client{index}"
        trainer = tiny_trainer(FedAvg(), DATA, self.folder / name, SETTINGS)
        site = TinySite(trainer, DATA, name, index, identity=f"machine of {name}", clock=time.time())
        return replace(site, **changes)

    def join(self, index: int, key: str = "", site: TinySite | None = None, **before) -> Script:
        """A site joins; `before`: what it does in place of its desk, by kind of message."""
        script = Script(site or self.site(index), **before)
        self.nodes[f"client{index}"] = self.superlink.join(script, key)
        return script

    def open(self, at_least: int = 0, expect: Expect | None = None) -> list[str]:
        resident = FlatModel(tiny_model(), CPU)
        self.runtime.open(SETUP, expect or expectation(view(resident, SHARED)))
        self.runtime.clients(at_least)
        return self.ready()

    def ready(self) -> list[str]:
        """Who is ready, a few looks later."""
        return [[client.name for client in self.runtime.clients()] for _ in range(5)][-1]

    def train(self, *names: str, round_number: int = 1, enough: int | None = None, payload: State = SHARED):
        tasks = [Task(name, round_number, "train", payload, TaskSettings(lr=0.1)) for name in names]
        self.runtime.submit(tasks, enough)
        return self.runtime.completed()

    def heard(self, index: int) -> list[str]:
        return [kind for node, kind in self.superlink.heard if node == self.nodes[f"client{index}"]]


def content(change: Callable[[RecordDict], object]) -> Callable[..., Any]:
    """An answer whose content is altered."""

    def altered(message: Message) -> Message:
        change(message.content)
        return message

    return altering(altered)


def put(record: str, **values: Any) -> Callable[..., Any]:
    """An answer with other values in one of its records."""
    return content(lambda records: records[record].update(values))


def of(outcomes: Iterable[Any], kind: type) -> list[str]:
    """The clients whose outcome is a `kind`."""
    return sorted(outcome.client for outcome in outcomes if isinstance(outcome, kind))


def only_failure(outcomes: Iterable[Any]) -> ClientFailure:
    """The one failure among them."""
    (found,) = [outcome for outcome in outcomes if isinstance(outcome, ClientFailure)]
    return found


def nan(records: RecordDict) -> None:
    update = tensors(records["payload"])
    records["payload"] = arrays({**update, "head.bias": torch.full((3,), torch.nan)})
