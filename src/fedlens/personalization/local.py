"""Local training without federation: the baseline for personalised methods.

Each client trains the whole model on its own images only, from the same initial values, in the rounds in which it is
sampled, and stores it. It is the "Local" row in the tables of most papers on personalised federation, such as Zhang et
al. 2023 (FedALA), https://arxiv.org/abs/2212.01197.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from fedlens.personalization.base import Personalization, personalizations


@personalizations.register(
    "local", summary="nothing is shared: every client trains alone, the baseline to compare with"
)
@dataclass(frozen=True)
class Local(Personalization):
    """All tensors are private; tasks and results contain no part of the model."""

    shares = False

    def is_private(self, name: str, module: nn.Module) -> bool:
        return True
