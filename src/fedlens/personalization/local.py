"""Local training: no federation at all, the baseline that personal methods are compared with.

Each client trains the whole model on its own images only, from the same first values, in the rounds in which it takes
part, and keeps it. It is the "Local" row in the tables of most papers on personalised federation, such as Zhang et al.
2023 (FedALA), https://arxiv.org/abs/2212.01197.
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
    """Every tensor stays with its client; tasks and answers hold no part of the model."""

    shares = False

    def is_private(self, name: str, module: nn.Module) -> bool:
        return True
