"""Sections of the configuration that local training uses as they are."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedlens.core.limits import Fraction, Number, Times, TimesOrNever
from fedlens.core.section import BlockSection, Section

Precision = Literal["fp32", "bf16", "fp16"]


class OptimizerSection(BlockSection):
    name: str = Field("sgd", description="the clients' optimizer: a name that `fedlens strategies` lists")
    lr: Annotated[float, Field(gt=0)] = Field(0.01, description="learning rate of the first round")
    momentum: Fraction = Field(0.9, description="of SGD")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="L2 (sgd) or decoupled (adamw)")
    schedule: Literal["constant", "cosine", "step", "exponential"] = Field("constant", description="of lr over rounds")
    warmup_rounds: TimesOrNever = Field(0, description="rounds of linear warm-up")
    step_rounds: Times = Field(10, description="step: rounds between drops")
    gamma: Annotated[float, Field(gt=0, le=1)] = Field(0.1, description="step and exponential: factor")
    clip_norm: Annotated[float, Field(gt=0)] | None = Field(None, description="largest gradient norm of a step")
    label_smoothing: Fraction = Field(0.0, description="of the cross-entropy")
    mixup: Annotated[float, Field(ge=0)] = Field(0.0, description="alpha of mixup; 0: off")
    keep: bool = Field(False, description="a client keeps its optimizer state from round to round")


class MemorySection(Section):
    precision: Precision = Field("fp32", description="of the forward pass; fp16 needs a GPU")
    channels_last: bool = Field(True, description="memory format of convolutions")
    gradient_checkpointing: bool = Field(False, description="recompute activations: less memory, more time")
    micro_batch: Number | None = Field(None, description="split a batch into pieces of this many images")
