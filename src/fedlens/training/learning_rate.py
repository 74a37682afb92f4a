"""Learning-rate schedules over rounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedlens.training.sections import OptimizerSection


@dataclass(frozen=True)
class LearningRate:
    """The clients' learning rate, by round (from 1).

    constant: lr; cosine: lr (1 + cos(π t / T)) / 2 (Loshchilov & Hutter 2017, eq. 5, one cycle); step: lr γ^⌊t / s⌋;
    exponential: lr γ^t, with t the rounds after the warm-up and T their number. The warm-up rises linearly to lr.
    """

    settings: OptimizerSection
    num_rounds: int

    def at(self, round_number: int) -> float:
        lr, warmup, gamma = self.settings.lr, self.settings.warmup_rounds, self.settings.gamma
        if round_number <= warmup:
            return lr * round_number / (warmup + 1)
        passed = round_number - 1 - warmup
        match self.settings.schedule:
            case "constant":
                return lr
            case "cosine":
                return lr * (1 + math.cos(math.pi * passed / max(self.num_rounds - warmup, 1))) / 2
            case "step":
                return lr * float(gamma ** (passed // self.settings.step_rounds))
            case "exponential":
                return lr * float(gamma**passed)
