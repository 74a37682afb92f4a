"""Model replacement: Bagdasaryan, Veit, Hua, Estrin, Shmatikov 2020, "How to backdoor federated learning",
https://arxiv.org/abs/1807.00459, eq. 3: L̃ = γ (X − Gᵗ) + Gᵗ for a model X with a backdoor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from fedlens.attacks.backdoor import Backdoor
from fedlens.attacks.base import AttackContext, attacks
from fedlens.core.types import State


@attacks.register("scale", summary="model replacement: train a backdoor, and send its update many times as long")
@dataclass(frozen=True)
class Scale(Backdoor):
    """A malicious client trains as for `backdoor` and sends γ Δ. With γ = (Σ w) / (Σ w of the malicious clients), the
    weighted mean of all results becomes that of the malicious models, if the other updates cancel out, as they nearly
    do close to convergence. This is the paper's γ, which undoes the server's averaging, divided among the malicious
    clients. If all results have equal weight, γ is the number of results divided by the number of malicious clients."""

    crafts: ClassVar[bool] = True

    factor: Annotated[float | None, Field(gt=0, le=1e6, description="γ; default: weight of all / of the malicious")] = (
        None
    )

    def craft(self, honest: Sequence[State], ctx: AttackContext) -> Sequence[State]:
        factor = 1 / ctx.share if self.factor is None else self.factor
        return [{name: value * factor for name, value in update.items()} for update in honest]
