"""Runs on a virtual clock with the tests' tiny model, over any runtime."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from tests.helpers import Memory, infos, plain_mean, tiny_data, tiny_trainer

from fedlens.clocks.base import IntermittentClients
from fedlens.federation.bookkeeping import Bookkeeping
from fedlens.federation.checkpoints import Checkpoint, Checkpoints
from fedlens.federation.coordinator import Coordinator, RunPlan
from fedlens.federation.sampling import ClientSampler
from fedlens.runtimes.in_process import InProcessRuntime
from fedlens.runtimes.local import LocalRuntime
from fedlens.runtimes.virtual import VirtualRuntime
from fedlens.strategies.fedavg import FedAvg
from fedlens.training.settings import LocalSettings

SETTINGS = LocalSettings(batch_size=4)


@dataclass(frozen=True)
class Listed(IntermittentClients):
    """A clock for tests: every client's seconds are listed; `losing`: starts from which nothing comes back."""

    times: Mapping[str, float] | None = None
    losing: frozenset[int] = frozenset()

    def seconds(self, client: str, seed: int, number: int) -> float:
        return (self.times or {}).get(client, 1.0)

    def lost(self, client: str, seed: int, number: int) -> bool:
        return number in self.losing


def plan(schedule, rounds: int = 4, rule: ClientSampler | None = None, **changes) -> RunPlan:
    rule = rule or ClientSampler(1.0, 1, seed=3)
    return RunPlan(rounds, rule, lambda _round: 0.1, protocol=schedule.protocol, **changes)


def timed(
    folder, plan: RunPlan, clock, *, data=None, settings=SETTINGS, workers: int = 0, start=None, keep=2, strategy=None
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
    start = start or Checkpoint(0, strategy.init(trainer.model.state()))
    coordinator = Coordinator(plan, strategy, runtime, trainer.model.trainable, books, plain_mean)
    try:
        return coordinator.run(start), memory.records, checkpoints
    finally:
        books.close()
        runtime.close()
