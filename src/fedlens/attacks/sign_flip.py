"""Sign flipping: Li, Xu, Chen, Giannakis, Ling 2019, "RSA: Byzantine-robust stochastic aggregation methods",
https://arxiv.org/abs/1811.03761, its experiments: what is sent is the honest message times a negative number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from fedlens.attacks.base import Attack, AttackContext, attacks
from fedlens.core.types import State


@attacks.register("sign_flip", summary="send the honest update, negated and scaled")
@dataclass(frozen=True)
class SignFlip(Attack):
    """A malicious client sends −factor · Δ, where Δ is its own honest update."""

    crafts: ClassVar[bool] = True

    factor: Annotated[float, Field(gt=0, le=1e6, description="how much longer than the honest update")] = 4.0

    def craft(self, honest: Sequence[State], ctx: AttackContext) -> Sequence[State]:
        return [{name: value * -self.factor for name, value in update.items()} for update in honest]
