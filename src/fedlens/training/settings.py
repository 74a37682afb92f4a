"""Settings of local training, the same for every client of a run."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedlens.training.optimizers.base import Optimizer
from fedlens.training.optimizers.sgd import SGD
from fedlens.training.sections import MemorySection, OptimizerSection


@dataclass(frozen=True)
class LocalSettings:
    """One client's work in a round. `training`: what belongs to every step, whatever the optimizer."""

    epochs: int = 1
    batch_size: int = 32
    optimizer: Optimizer = field(default_factory=SGD)
    training: OptimizerSection = field(default_factory=OptimizerSection)
    memory: MemorySection = field(default_factory=MemorySection)
    seed: int = 0
