"""pFedMe: Dinh, Tran, Nguyen 2020, "Personalized Federated Learning with Moreau Envelopes",
https://arxiv.org/abs/2006.08848, Algorithm 1.

A client's own model θ solves min f(θ) + λ/2 ‖θ − w‖² (eq. 3) approximately, on one mini-batch at a time; the client's
copy w of the shared model follows θ. The server's mixing (wᵗ⁺¹ = (1 − β) wᵗ + β · mean) is a server learning rate of β,
so it is set in the strategy: `server_lr` of `fedavgm` with `server_momentum=0`, or of any other strategy that has one.
The strategy also defines the mean: here weighted by images, in the paper uniform.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Annotated

from pydantic import Field
from torch import Tensor

from fedlens.core.limits import Times
from fedlens.core.types import Metrics
from fedlens.personalization.base import Batch, LocalTrainingContext, Personalization, personalizations
from fedlens.strategies.base import LocalTerms


@personalizations.register(
    "pfedme", summary="each client's own model, regularised towards the shared one by a Moreau envelope"
)
@dataclass(frozen=True)
class PFedMe(Personalization):
    """For each of R batches: K steps θ ← θ − η' (∇f(θ) + λ (θ − w)), then w ← w − η λ (w − θ).

    R is the number of batches in the round's local epochs, η is optimizer.lr; η' and K are configuration keys. A
    strategy's loss term is part of f; its gradient correction applies to w.

    w and θ have separate running statistics. Gradients are computed at θ only, so each batch is also passed forward
    through w, before θ is updated; a model without running statistics needs no such pass.
    """

    steps_only = False

    lam: Annotated[float, Field(gt=0, description="λ, weight of the proximal term; the paper: 15 to 30")] = 15.0
    personal_steps: Annotated[Times, Field(description="K, steps of θ on each batch; the paper: 5")] = 5
    personal_lr: Annotated[float, Field(gt=0, description="η', learning rate of θ; the authors' code: 0.09")] = 0.09

    def train(self, local: LocalTrainingContext, terms: LocalTerms) -> Metrics:
        w, seen = local.vector.clone(), local.statistics()

        def batches() -> Iterator[Batch]:
            nonlocal seen
            for batch in local.batches(local.epochs):
                seen = observed(local, batch, w, seen)
                yield from repeat(batch, self.personal_steps)
                move = (w - local.vector).mul_(self.lam)
                if terms.correction is not None:
                    move += terms.correction(w)
                w.sub_(move if local.step_scale is None else move * local.step_scale, alpha=local.lr)

        pull = replace(terms, correction=lambda theta: (theta - w).mul_(self.lam))
        metrics = local.fit(batches(), pull, lr=self.personal_lr, optimizer="plain")
        local.kept = local.state()
        local.vector.copy_(w)
        local.load(seen)
        return metrics

    def passes(self, epochs: int) -> int:
        return epochs * (self.personal_steps + 1)

    def predict(self, local: LocalTrainingContext) -> None:
        local.load(local.kept)


def observed(local: LocalTrainingContext, batch: Batch, w: Tensor, seen: dict[str, Tensor]) -> dict[str, Tensor]:
    """w's running statistics `seen`, updated by a forward pass of the batch; afterwards the model holds θ again."""
    if not seen:
        return seen
    theta, own = local.vector.clone(), local.statistics()
    local.vector.copy_(w)
    local.load(seen)
    local.observe(batch)
    seen = local.statistics()
    local.vector.copy_(theta)
    local.load(own)
    return seen
