"""MOON: Li, He, Song 2021, "Model-Contrastive Federated Learning", https://arxiv.org/abs/2103.16257, eq. 3 and 4.

z is the backbone's output for an image. The paper adds a projection head of two layers between backbone and classifier
and takes z after it; here none is added, so that the trained model is the configured one.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from fedlens.core.types import State
from fedlens.models.base import Recognizer
from fedlens.strategies.base import ClientContext, ClientUpdate, LocalTerms, SharedModel, Strategy, strategies

BACKBONE = "backbone."
"""Name prefix of a Recognizer's backbone."""


@strategies.register("moon", summary="a contrastive loss keeps the clients' features close to the received model's")
@dataclass(frozen=True)
class Moon(Strategy):
    """Clients minimise ℓ_sup + μ ℓ_con with

        ℓ_con = −log (e^(sim(z, z_glob)/τ) / (e^(sim(z, z_glob)/τ) + e^(sim(z, z_prev)/τ))),

    with z from the model in training, z_glob from the received model and z_prev from the client's model at the end of
    its last round. In a client's first round z_prev would be z_glob and ℓ_con the constant log 2, so ℓ_con is left out.
    """

    mu: Annotated[float, Field(ge=0, description="μ; the paper takes 5 for CIFAR-10, else 1, out of 0.1 to 10")] = 1.0
    temperature: Annotated[float, Field(gt=0, description="τ")] = 0.5

    adds_to_loss: ClassVar[bool] = True

    def terms(self, ctx: ClientContext) -> LocalTerms:
        if not ctx.client_state:
            return LocalTerms()
        received = deepcopy(cast(Recognizer, ctx.module).backbone).eval()
        previous = deepcopy(received)
        kept = {name.removeprefix(BACKBONE): value for name, value in ctx.client_state.items()}
        previous.load_state_dict(kept, strict=False)  # tensors that are not stored are the same in both models

        def contrastive(inputs: Tensor, features: Tensor, _labels: Tensor) -> Tensor:
            with torch.no_grad():
                towards, away = received(inputs), previous(inputs)
            return contrast(features, towards, away, self.temperature) * self.mu

        return LocalTerms(features=contrastive)

    def finish(self, ctx: ClientContext, delta: State) -> ClientUpdate:
        trained = ctx.module.state_dict()
        kept = {name: trained[name] for name in delta if name.startswith(BACKBONE)}
        return replace(super().finish(ctx, delta), client_state=kept)

    def incompatibility(self, given: SharedModel, /) -> str | None:
        module, private = given.module, given.private
        key = "name = 'moon'"
        if not isinstance(module, Recognizer):
            return (
                f"{key}: it compares what a model's backbone makes of images, and this model names none: a module of "
                "your own has to be a fedlens.models.base.Recognizer"
            )
        trained = {f"{BACKBONE}{name}" for name, value in module.backbone.named_parameters() if value.requires_grad}
        if not trained:
            return (
                f"{key}: it compares what the backbone makes of images, and a frozen one never changes; use "
                "model.freeze=none, and model.tune=all"
            )
        if trained <= private:
            return (
                f"{key}: it compares clients' backbones with the shared one, and here none is; use "
                "personalization.name=none"
            )
        return None


def contrast(features: Tensor, towards: Tensor, away: Tensor, temperature: float) -> Tensor:
    """ℓ_con, the mean over the batch; all three tensors are (B, …). Computed as log(1 + e^x), which cannot overflow."""
    z, near, far = (each.float().flatten(1) for each in (features, towards, away))
    difference = F.cosine_similarity(z, far) - F.cosine_similarity(z, near)
    return F.softplus(difference / temperature).mean()
