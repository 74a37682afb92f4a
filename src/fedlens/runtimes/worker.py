"""What a worker does with its share of a round, in whichever process it lives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from fedlens.federation.types import Answer, ClientFailure, Task
from fedlens.runtimes.base import Outcome
from fedlens.runtimes.meter import Meter
from fedlens.training.client import ClientTrainer

MakeTrainer = Callable[[], ClientTrainer]
"""Builds a worker's resident model; called in the worker's own process."""


def work(trainer: ClientTrainer, tasks: Sequence[Task], meter: Meter | None = None) -> Iterator[Outcome]:
    """Do `tasks` in order; `meter` counts clients and steps. Updates are added up here where the aggregation and the
    task allow it."""
    meter = meter or Meter()
    meter.begin([trainer.steps(task) for task in tasks])
    sums = trainer.make_aggregator()
    added = False
    for task in tasks:
        outcome = trainer.run(task, meter.step)
        meter.client()
        if isinstance(outcome, ClientFailure):
            yield outcome
        elif isinstance(outcome, Answer) and outcome.kind == "train" and sums.mergeable and not task.apart:
            sums.add(outcome)
            added = True
        else:
            yield outcome
    if added:
        yield sums.partial(tasks[0].round)
