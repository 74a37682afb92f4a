"""FedBABU: Oh, Kim, Yun 2022, "FedBABU: Toward Enhanced Representation for Federated Image Classification",
https://arxiv.org/abs/2106.06042, Algorithm 1.

The head keeps its random initial value during the whole federation, the same for all clients; only the body is trained
and averaged. Before a client predicts, it fine-tunes the model. The head is sent with the shared model, so that clients
receive it; its update is zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from fedlens.core.types import Metrics
from fedlens.personalization.base import LocalTrainingContext, personalizations
from fedlens.personalization.finetune import TuneEpochs, TuneRate, tune
from fedlens.personalization.split import SplitPersonalization
from fedlens.strategies.base import LocalTerms


@personalizations.register("fedbabu", summary="the head is fixed while the body is federated; fine-tuned before use")
@dataclass(frozen=True)
class FedBABU(SplitPersonalization):
    """Only the body is trained; `tunes` chooses the parameters that fine-tuning changes."""

    tune_epochs: TuneEpochs = 5
    tune_lr: TuneRate = None
    tunes: Annotated[Literal["all", "head", "body"], Field(description="what the fine-tuning before use trains")] = (
        "all"
    )

    def train(self, local: LocalTrainingContext, terms: LocalTerms) -> Metrics:
        return local.fit(local.epochs, terms, step_scale=local.mask(self.body_of(local)))

    def passes(self, epochs: int) -> int:
        return epochs + self.tune_epochs

    def predict(self, local: LocalTrainingContext) -> None:
        parts = {"head": self.head_of, "body": self.body_of}
        step_scale = None if self.tunes == "all" else local.mask(parts[self.tunes](local))
        tune(local, self.tune_epochs, self.tune_lr, step_scale)

    def incompatibility(self, model: nn.Module, /) -> str | None:
        split = super().incompatibility(model)
        if split is not None:
            return split
        head = [value for name, value in model.named_parameters() if self.in_head(name)]
        if any(bool(value.any()) for value in head):
            return None
        return (
            f"head = {self.head!r}: with model.pretrained this head begins at zero, and as it stays "
            "fixed nothing would train behind it; use model.pretrained=false, or personalization.name=finetune"
        )
