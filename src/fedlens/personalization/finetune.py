"""Fine-tuning: before prediction, clients train the shared model on their own images.

Wang, Mathews, Kiddon, Eichner, Beaufays, Ramage 2019, "Federated Evaluation of On-device Personalization",
https://arxiv.org/abs/1910.10252, section 2: personalisation after federated training, evaluated on the clients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from fedlens.core.limits import Times
from fedlens.personalization.base import LocalTrainingContext, Personalization, personalizations

TuneEpochs = Annotated[Times, Field(description="passes over the client's images before the model is used")]
TuneRate = Annotated[
    float | None, Field(gt=0, description="learning rate of those passes; default: the last round's optimizer.lr")
]


@personalizations.register("finetune", summary="plain federation; each client fine-tunes the model before it uses it")
@dataclass(frozen=True)
class FineTune(Personalization):
    """Nothing is stored: the same images and seed give the same model again."""

    tune_epochs: TuneEpochs = 5
    tune_lr: TuneRate = None

    def passes(self, epochs: int) -> int:
        return epochs + self.tune_epochs

    def predict(self, local: LocalTrainingContext) -> None:
        tune(local, self.tune_epochs, self.tune_lr)


def tune(local: LocalTrainingContext, epochs: int, lr: float | None, step_scale: Tensor | None = None) -> None:
    """Train the model on the client's images; no effect without images."""
    if local.examples:
        local.fit(epochs, lr=lr, step_scale=step_scale, optimizer="fresh")
