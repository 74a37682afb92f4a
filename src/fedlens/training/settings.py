"""Settings of local training: plain values, the same for every client of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class OptimizerSettings:
    """The clients' optimizer. `clip_norm`: the largest L2 norm of a step's gradient; `mixup`: mixup's α, 0 to disable
    it."""

    name: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    clip_norm: float | None = None
    label_smoothing: float = 0.0
    mixup: float = 0.0
    keep: bool = False


@dataclass(frozen=True)
class LocalSettings:
    """One client's work in a round."""

    epochs: int = 1
    batch_size: int = 32
    optimizer: OptimizerSettings = OptimizerSettings()
    precision: Precision = "fp32"
    channels_last: bool = True
    micro_batch: int | None = None
    augment: Literal["none", "flip", "crop_flip", "randaugment"] = "none"
    seed: int = 0
