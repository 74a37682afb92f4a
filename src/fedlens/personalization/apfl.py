"""APFL: Deng, Kamani, Mahdavi 2020, "Adaptive Personalized Federated Learning", https://arxiv.org/abs/2003.13461,
Algorithm 1, with the adaptive α of section 4.2, eq. 10.

A client predicts with v̄ = α v + (1 − α) w, a mixture of its own model v and its copy w of the shared model. v starts
as the first model that the client receives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedlens.core.types import Metrics, prefixed, under
from fedlens.personalization.base import Batch, LocalTrainingContext, Personalization, personalizations
from fedlens.strategies.base import LocalTerms

ALPHA, OWN, STATISTICS = "alpha", "own", "statistics"
"""Stored per client: α, v, and the running statistics of v̄."""


@personalizations.register("apfl", summary="each client mixes its own model with the shared one, with a learned weight")
@dataclass(frozen=True)
class APFL(Personalization):
    """On each batch: α ← α − η ⟨v − w, ∇f(v̄)⟩ (eq. 10, clipped to [0, 1]), v ← v − η ∇ᵥ f(v̄), w ← w − η ∇f(w).

    By the chain rule ∇ᵥ f(v̄) = α ∇f(v̄). η is the round's learning rate; the configured optimizer steps both v and w.
    The authors' code updates α on the first batch of a round only.
    """

    initial_alpha: Annotated[float, Field(ge=0, le=1, description="α at first; 0: the shared model, 1: its own")] = 0.5
    adaptive: Annotated[bool, Field(description="α follows eq. 10; false: it stays")] = True

    def train(self, local: LocalTrainingContext, terms: LocalTerms) -> Metrics:
        own, alpha, statistics = local.vector.clone(), torch.tensor(self.initial_alpha), local.statistics()
        if local.kept:
            own, alpha = local.flatten(under(OWN, local.kept)), local.kept[ALPHA]
            statistics = under(STATISTICS, local.kept)
        mixture = Mixture(local, own, float(alpha), statistics, self.adaptive)

        def batches() -> Iterator[Batch]:
            for batch in local.batches(local.epochs):
                mixture.step(batch)
                yield batch

        metrics = local.fit(batches(), terms)
        local.kept = {
            ALPHA: torch.tensor(mixture.alpha),
            **prefixed(OWN, local.unflatten(mixture.own)),
            **prefixed(STATISTICS, mixture.statistics),
        }
        return metrics

    def passes(self, epochs: int) -> int:
        return 2 * epochs

    def predict(self, local: LocalTrainingContext) -> None:
        if local.kept:
            alpha, own = float(local.kept[ALPHA]), local.flatten(under(OWN, local.kept))
            local.vector.copy_(mix(own, local.vector, alpha))
            local.load(under(STATISTICS, local.kept))


class Mixture:
    """v, α and v̄'s running statistics; updated while the shared loop trains w."""

    def __init__(
        self, local: LocalTrainingContext, own: Tensor, alpha: float, statistics: dict[str, Tensor], adaptive: bool
    ) -> None:
        self.own = own
        self.alpha = alpha
        self.statistics = statistics
        self._local = local
        self._adaptive = adaptive
        self._gradients = local.gradients()
        self._stepped = local.stepper()

    def step(self, batch: Batch) -> None:
        """Update v and α by their gradients at v̄; afterwards the model holds w again."""
        local, alpha = self._local, self.alpha
        shared, seen = local.vector.clone(), local.statistics()
        local.vector.copy_(mix(self.own, shared, alpha))
        local.load(self.statistics)
        gradient = self._gradients(batch)
        if self._adaptive:
            slope = float((self.own - shared) @ gradient)
            self.alpha = min(max(alpha - local.lr * slope, 0.0), 1.0)
        self._stepped(self.own, gradient * alpha)
        self.statistics = local.statistics()
        local.vector.copy_(shared)
        local.load(seen)


def mix(own: Tensor, shared: Tensor, alpha: float) -> Tensor:
    """α v + (1 − α) w."""
    return own * alpha + shared * (1 - alpha)
