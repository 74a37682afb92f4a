"""FedRep: Collins, Hassani, Mokhtari, Shakkottai 2021, "Exploiting Shared Representations for Personalized Federated
Learning", https://arxiv.org/abs/2102.07078, Algorithm 1.

A client first trains its head h with the received representation φ fixed, then φ with the new head fixed. Algorithm 1
takes one gradient step for φ; here, as in the paper's experiments, φ is trained for whole passes over the images:
`federated.local_epochs` (one or five in the paper).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import nn

from fedlens.core.limits import Times
from fedlens.core.types import Metrics
from fedlens.personalization.base import LocalTrainingContext, personalizations
from fedlens.personalization.split import SplitPersonalization
from fedlens.strategies.base import LocalTerms


@personalizations.register("fedrep", summary="the head stays and is trained first, then the shared body")
@dataclass(frozen=True)
class FedRep(SplitPersonalization):
    """h ← GRD(f(h, φ), h) for `head_epochs`; then φ ← GRD(f(h, φ), φ) for the round's local epochs."""

    head_epochs: Annotated[Times, Field(description="τ in epochs, before the body's; the paper's is 10")] = 10

    def is_private(self, name: str, module: nn.Module) -> bool:
        return self.in_head(name)

    def train(self, local: LocalTrainingContext, terms: LocalTerms) -> Metrics:
        local.fit(self.head_epochs, step_scale=local.mask(self.head_of(local)), optimizer="fresh")
        return local.fit(local.epochs, terms, step_scale=local.mask(self.body_of(local)))

    def passes(self, epochs: int) -> int:
        return self.head_epochs + epochs
