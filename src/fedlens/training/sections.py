"""Sections of the configuration that local training uses as they are."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedlens.core.limits import Fraction, Number, Times, TimesOrNever
from fedlens.core.section import BlockSection, Section

Precision = Literal["fp32", "bf16", "fp16"]

Graph = bool | Literal["auto"]
"""Whether local steps are replayed from a CUDA graph."""


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
    auto: bool = Field(False, description="when memory is full, measure which settings fit, and go on with them")


class TransferSection(Section):
    """At which pace the parts of the model are trained. Groups are the model's stages, the head being the last."""

    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="factor of the learning rate from a group to the one below; ULMFiT's is 1 / 2.6 = 0.385"
    )
    unfreeze_every: TimesOrNever = Field(
        0, description="begin with the head, train one more group every k rounds; 0: everything from the start"
    )
    probe_rounds: TimesOrNever = Field(0, description="rounds with the head alone, before everything")

    @property
    def uniform(self) -> bool:
        """Whether all parts of the model have one learning rate in every round."""
        return self.layer_decay == 1 and not self.unfreeze_every and not self.probe_rounds

    def rates(self, groups: int, round_number: int) -> tuple[float, ...]:
        """Learning-rate factors in a round (from 1), from the lowest group to the head; 0: the group is frozen."""
        trained = self._trained(groups, round_number)
        return tuple(self.layer_decay**depth if depth < trained else 0.0 for depth in reversed(range(groups)))

    def _trained(self, groups: int, round_number: int) -> int:
        """The number of groups that are trained, counted from the head."""
        if self.unfreeze_every:
            return min(groups, 1 + (round_number - 1) // self.unfreeze_every)
        return 1 if round_number <= self.probe_rounds else groups
