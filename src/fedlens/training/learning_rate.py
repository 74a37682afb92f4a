"""Learning-rate schedules over rounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LearningRate:
    """The clients' learning rate, by round (from 1).

    constant: lr; cosine: lr (1 + cos(π t / T)) / 2 (Loshchilov & Hutter 2017, eq. 5, one cycle); step: lr γ^⌊t / s⌋;
    exponential: lr γ^t, with t the rounds after the warm-up and T their number. The warm-up rises linearly to lr.
    """

    lr: float
    schedule: Literal["constant", "cosine", "step", "exponential"] = "constant"
    num_rounds: int = 1
    warmup_rounds: int = 0
    step_rounds: int = 10
    gamma: float = 0.1

    def at(self, round_number: int) -> float:
        if round_number <= self.warmup_rounds:
            return self.lr * round_number / (self.warmup_rounds + 1)
        passed = round_number - 1 - self.warmup_rounds
        match self.schedule:
            case "constant":
                return self.lr
            case "cosine":
                return self.lr * (1 + math.cos(math.pi * passed / max(self.num_rounds - self.warmup_rounds, 1))) / 2
            case "step":
                return self.lr * float(self.gamma ** (passed // self.step_rounds))
            case "exponential":
                return self.lr * float(self.gamma**passed)
