"""Runs on a virtual clock with the tests' tiny model, over any runtime."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from tests.helpers import Memory, infos, tiny_data, tiny_trainer

from fedlens.aggregation.mean import WeightedMean
from fedlens.clocks.base import Unsteady
from fedlens.federation.bookkeeping import Bookkeeping
from fedlens.federation.checkpoints import Checkpoint, Checkpoints
from fedlens.federation.coordinator import Coordinator, Plan
from fedlens.federation.schedule import CohortRule
from fedlens.runtimes.in_process import InProcessRuntime
from fedlens.runtimes.local import LocalRuntime
from fedlens.runtimes.virtual import VirtualRuntime
from fedlens.strategies.fedavg import FedAvg
from fedlens.training.settings import LocalSettings

SETTINGS = LocalSettings(batch_size=4)


@dataclass(frozen=True)
class Listed(Unsteady):
    """A clock for tests: every client's seconds are listed; `losing`: starts from which nothing comes back."""

    times: Mapping[str, float] | None = None
    losing: frozenset[int] = frozenset()

    def seconds(self, client: str, seed: int, number: int) -> float:
        return (self.times or {}).get(client, 1.0)

    def lost(self, client: str, seed: int, number: int) -> bool:
        return number in self.losing


def plan(schedule, rounds: int = 4, rule: CohortRule | None = None, **changes) -> Plan:
    rule = rule or CohortRule(1.0, 1, seed=3)
    return Plan(rounds, rule, lambda _round: 0.1, schedule=schedule, **changes)


def timed(
    folder, plan: Plan, clock, *, data=None, settings=SETTINGS, workers: int = 0, start=None, keep=2, strategy=None
):
    """The end, the records, the checkpoints. `workers`: processes; 0: none."""
    data, strategy = data or tiny_data(), strategy or FedAvg()
    make = partial(tiny_trainer, strategy, data, folder / "clients", settings)
    trainer = make()
    inner = (
        LocalRuntime(infos(data), make, workers=workers, threads_per_worker=1, start_method="fork")
        if workers
        else InProcessRuntime(infos(data), make)
    )
    runtime = VirtualRuntime(inner, clock, seed=3)
    memory, checkpoints = Memory(), Checkpoints(folder / "checkpoints", keep)
    books = Bookkeeping([memory], checkpoints)
    start = start or Checkpoint(0, strategy.init(trainer._model.state()))
    coordinator = Coordinator(plan, strategy, runtime, trainer._model.trainable, books, WeightedMean)
    try:
        return coordinator.run(start), memory.records, checkpoints
    finally:
        books.close()
        runtime.close()
