"""FedProto: Tan, Long, Liu, Zhou, Lu, Jiang, Zhang 2022, "FedProto: Federated Prototype Learning across Heterogeneous
Clients", https://arxiv.org/abs/2105.00243, section "Methodology".

The paper's clients send prototypes alone, and each keeps its own model. Here prototypes come on top of FedAvg: the
model is averaged, too. The printed mean of prototypes is divided once more by the number of clients that have the
class, which would draw all features to 0; the weights |D_ij| / N_j add up to 1 already, so this is left out. The
distance d, which the paper leaves open, is the mean square over the rows of a batch and over the features, as in the
authors' code: it needs no other λ for another number of features, and adds up over parts of a batch. Features of a dual
encoder have length 1, so there it is at most 4 / width, and λ has to be larger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from fedlens.aggregation.base import AggregatedUpdate
from fedlens.core.types import State, prefixed, under
from fedlens.models.base import OwnObjective, Recognizer
from fedlens.strategies.base import (
    ClientContext,
    ClientUpdate,
    LocalTerms,
    RoundContext,
    ServerState,
    SharedModel,
    Strategy,
    add,
    strategies,
)

PROTOTYPES = "prototypes"
"""Prefix of the extra tensors."""

LONGEST = 1e4
"""L2 norm of one row's features above which a result is refused; those of networks in training are far shorter."""


@strategies.register("fedproto", summary="FedAvg, and a class' features are drawn to the mean over all clients")
@dataclass(frozen=True)
class FedProto(Strategy):
    """Clients minimise ℓ_S + λ ℓ_R, where ℓ_R is the mean over a batch's rows of ‖f(x) − C̄_y‖² / D. The prototype C̄_j
    of class j is the mean over the training rows of all clients in a round, each with its own model after training. A
    class that no client of a round has keeps its prototype; without one it has no part in ℓ_R."""

    mu: Annotated[float, Field(ge=0, description="λ; the authors take 1, and 0.1 for CIFAR-10")] = 1.0

    needs_own_weights: ClassVar[bool] = True
    adds_to_loss: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True

    def broadcast(self, state: ServerState, ctx: RoundContext) -> State:
        return {**state.shared, **prefixed(PROTOTYPES, state.extra)}

    def terms(self, ctx: ClientContext) -> LocalTerms:
        received = under(PROTOTYPES, ctx.received)
        if not received:
            return LocalTerms()
        means, known = (received[name].to(ctx.start.device) for name in ("mean", "known"))

        def distance(_inputs: Tensor, features: Tensor, labels: Tensor) -> Tensor:
            squares = (features.float() - means[labels]).square().mean(1)
            return self.mu * (squares * known[labels]).mean()

        return LocalTerms(features=distance)

    def finish(self, ctx: ClientContext, delta: State) -> ClientUpdate:
        """Σ f(x) and |D_ij| of each class, whose quotient over one client is its local prototype."""
        extra = prefixed(PROTOTYPES, ctx.class_features()._asdict())
        return ClientUpdate(delta, weight=float(ctx.examples), extra=extra)

    def largest_extras(self, ctx: ClientContext, norm: float) -> Mapping[str, float]:
        return {f"{PROTOTYPES}/rows": float(ctx.examples), f"{PROTOTYPES}/sums": ctx.examples * LONGEST}

    def step(self, state: ServerState, total: AggregatedUpdate, ctx: RoundContext) -> ServerState:
        """C̄_j = Σ_i |D_ij| / N_j C_ij. Extra tensors are means over clients here, of which the quotient is the same."""
        sent = under(PROTOTYPES, total.extra)
        rows, before = sent["rows"], state.extra
        here = rows > 0
        means = sent["sums"] / torch.where(here, rows, 1.0)[:, None]
        if before:
            means = torch.where(here[:, None], means, before["mean"])
            here = here | (before["known"] > 0)
        return ServerState(add(state.shared, total.delta), {"mean": means * here[:, None], "known": here.float()})

    def incompatibility(self, given: SharedModel, /) -> str | None:
        key = "name = 'fedproto'"
        if not isinstance(given.module, Recognizer):
            return (
                f"{key}: it compares what a model's backbone makes of images, and this model names none: a module of "
                "your own has to be a fedlens.models.base.Recognizer"
            )
        if not isinstance(given.module, OwnObjective) and not isinstance(given.module.head, nn.Linear):
            return f"{key}: it needs to know the number of features, and the head of this model is no nn.Linear"
        if not any(value.requires_grad for value in given.module.backbone.parameters()):
            return (
                f"{key}: it moves what the backbone makes of images, and a frozen one never changes; use "
                "model.freeze=none, and model.tune=all"
            )
        return None
