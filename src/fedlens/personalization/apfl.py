"""APFL: Deng, Kamani, Mahdavi 2020, "Adaptive Personalized Federated Learning", https://arxiv.org/abs/2003.13461,
Algorithm 1, with the adaptive α of section 4.2, eq. 10.

A client uses v̄ = α v + (1 − α) w, a mixture of a model v of its own and its copy w of the shared one. v begins as the
first model that the client receives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedlens.federation.types import Metrics
from fedlens.personalization.base import Batch, Home, Personalization, personalizations
from fedlens.strategies.base import LocalTerms, prefixed, under

ALPHA, OWN, STATISTICS = "alpha", "own", "statistics"
"""What a client keeps: α, v, and the running statistics that v̄ has seen."""


@personalizations.register("apfl", summary="each client mixes its own model with the shared one, in its own measure")
@dataclass(frozen=True)
class APFL(Personalization):
    """On each batch: α ← α − η ⟨v − w, ∇f(v̄)⟩ (eq. 10, held within 0 and 1), v ← v − η ∇ᵥ f(v̄), w ← w − η ∇f(w).

    By the chain rule ∇ᵥ f(v̄) = α ∇f(v̄). η is the round's; v is stepped by the configured optimizer, as w is. The
    authors' code moves α on the first batch of a round only.
    """

    initial_alpha: Annotated[float, Field(ge=0, le=1, description="α at first; 0: the shared model, 1: its own")] = 0.5
    adaptive: Annotated[bool, Field(description="α follows eq. 10; false: it stays")] = True

    def train(self, home: Home, terms: LocalTerms) -> Metrics:
        own, alpha, statistics = home.vector.clone(), torch.tensor(self.initial_alpha), home.statistics()
        if home.kept:
            own, alpha = home.flatten(under(OWN, home.kept)), home.kept[ALPHA]
            statistics = under(STATISTICS, home.kept)
        mixture = Mixture(home, own, float(alpha), statistics, self.adaptive)

        def batches() -> Iterator[Batch]:
            for batch in home.batches(home.epochs):
                mixture.step(batch)
                yield batch

        metrics = home.fit(batches(), terms)
        home.kept = {
            ALPHA: torch.tensor(mixture.alpha),
            **prefixed(OWN, home.unflatten(mixture.own)),
            **prefixed(STATISTICS, mixture.statistics),
        }
        return metrics

    def passes(self, epochs: int) -> int:
        return 2 * epochs

    def predict(self, home: Home) -> None:
        if home.kept:
            alpha, own = float(home.kept[ALPHA]), home.flatten(under(OWN, home.kept))
            home.vector.copy_(mix(own, home.vector, alpha))
            home.load(under(STATISTICS, home.kept))


class Mixture:
    """v, α and v̄'s running statistics, while a client's w is trained beside them."""

    def __init__(self, home: Home, own: Tensor, alpha: float, statistics: dict[str, Tensor], adaptive: bool) -> None:
        self.own = own
        self.alpha = alpha
        self.statistics = statistics
        self._home = home
        self._adaptive = adaptive
        self._gradients = home.gradients()
        self._stepped = home.stepper()

    def step(self, batch: Batch) -> None:
        """Move v and α by their gradients at v̄; the model stands at w before and after."""
        home, alpha = self._home, self.alpha
        shared, seen = home.vector.clone(), home.statistics()
        home.vector.copy_(mix(self.own, shared, alpha))
        home.load(self.statistics)
        gradient = self._gradients(batch)
        if self._adaptive:
            slope = float((self.own - shared) @ gradient)
            self.alpha = min(max(alpha - home.lr * slope, 0.0), 1.0)
        self._stepped(self.own, gradient * alpha)
        self.statistics = home.statistics()
        home.vector.copy_(shared)
        home.load(seen)


def mix(own: Tensor, shared: Tensor, alpha: float) -> Tensor:
    """α v + (1 − α) w."""
    return own * alpha + shared * (1 - alpha)
