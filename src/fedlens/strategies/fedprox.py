"""FedProx: Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith 2020, https://arxiv.org/abs/1812.06127, Algorithm 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from fedlens.strategies.base import ClientContext, LocalTerms, Strategy, strategies


@strategies.register("fedprox", summary="FedAvg with a proximal term towards the received model, for unequal clients")
@dataclass(frozen=True)
class FedProx(Strategy):
    """Clients minimise F(w) + μ/2 ‖w − wᵗ‖² (eq. 2); its gradient adds μ (w − wᵗ) to every step."""

    mu: Annotated[float, Field(ge=0, description="weight of the proximal term; the paper tries 0.001 to 1")] = 0.01

    def terms(self, ctx: ClientContext) -> LocalTerms:
        def proximal(parameters: Tensor) -> Tensor:
            return (parameters - ctx.start).mul_(self.mu)

        return LocalTerms(correction=proximal)
