"""Ditto: Li, Hu, Beirami, Smith 2021, "Ditto: Fair and Robust Federated Learning Through Personalization",
https://arxiv.org/abs/2012.04221, Algorithm 1.

Besides the shared model, each client trains its own model v with a proximal term towards the received model wᵗ. v
starts as the first model that the client receives; the paper leaves this open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from fedlens.core.limits import Times
from fedlens.core.types import Metrics
from fedlens.personalization.base import LocalTrainingContext, Personalization, personalizations
from fedlens.strategies.base import LocalTerms


@personalizations.register("ditto", summary="each client also trains its own model, regularised towards the shared one")
@dataclass(frozen=True)
class Ditto(Personalization):
    """v ← v − η (∇F(v) + λ (v − wᵗ)), during `personal_epochs` passes over the images (the paper's s steps)."""

    lam: Annotated[float, Field(ge=0, description="λ, weight of the proximal term; the paper tries 0.05 to 2")] = 1.0
    personal_epochs: Annotated[
        Times | None, Field(description="passes for the client's own model; default: federated.local_epochs")
    ] = None

    def train(self, local: LocalTrainingContext, terms: LocalTerms) -> Metrics:
        received, centre = local.state(), local.vector.clone()
        metrics = local.fit(local.epochs, terms)
        sent = local.state()
        local.load({**received, **local.kept})
        local.fit(self.personal_epochs or local.epochs, LocalTerms(correction=self.pull(centre)), optimizer="fresh")
        local.kept = local.state()
        local.load(sent)
        return metrics

    def passes(self, epochs: int) -> int:
        return epochs + (self.personal_epochs or epochs)

    def predict(self, local: LocalTrainingContext) -> None:
        local.load(local.kept)

    def pull(self, centre: Tensor) -> Callable[[Tensor], Tensor]:
        """λ (v − wᵗ)."""
        return lambda vector: (vector - centre).mul_(self.lam)
