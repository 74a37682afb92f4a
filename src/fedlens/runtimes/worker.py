"""A worker's share of a round, in a process of any kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from fedlens.core.types import ClientFailure, Task
from fedlens.runtimes.base import Outcome
from fedlens.runtimes.meter import Meter
from fedlens.training.client import ClientTrainer
from fedlens.training.device import in_main_memory
from fedlens.training.tasks.base import kind_of
from fedlens.training.together import run_stack, stacks

MakeTrainer = Callable[[], ClientTrainer]
"""Builds a worker's resident model; called in the worker's own process."""


def work(trainer: ClientTrainer, tasks: Sequence[Task], meter: Meter | None = None) -> Iterator[Outcome]:
    """Do `tasks`, in the order of `stacks`; `meter` counts clients and steps. Updates are added up here where all
    receivers, the rule and the task allow it."""
    meter = meter or Meter()
    groups = stacks(trainer, tasks)
    meter.begin([trainer.steps(task) for stack in groups for task in stack])
    sums = trainer.partial_sum(tasks[0].round, tasks[0].payload) if tasks else None
    added = False
    try:
        for stack in groups:
            outcomes = run_stack(trainer, stack, meter.step)
            meter.clients(len(stack))
            for task, outcome in zip(stack, outcomes, strict=True):
                if isinstance(outcome, ClientFailure):
                    yield outcome
                elif sums is not None and sums.mergeable and kind_of(task.kind).aggregated and not task.unaggregated:
                    sums.add(trainer.decode(outcome))
                    added = True
                else:
                    yield in_main_memory(outcome)
            del outcomes  # the memory of updates is free before the next stack trains
    finally:
        trainer.release()
    if sums is not None and added:
        yield from map(in_main_memory, sums.partials(tasks[0].round))
