"""LG-FedAvg: Liang, Liu, Ziyin, Allen, Auerbach, Brent, Salakhutdinov, Morency 2020, "Think Locally, Act Globally:
Federated Learning with Local and Global Representations", https://arxiv.org/abs/2001.01523, Algorithm 1.

The opposite of FedPer: the local representation ℓ stays with the client, and the global model g above it is federated.
The paper's image experiments start with rounds of FedAvg; here `model.weights` can name a model trained that way.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from fedlens.personalization.base import personalizations
from fedlens.personalization.split import SplitPersonalization


@personalizations.register("lgfedavg", summary="the backbone stays, the head is shared: own features, small messages")
@dataclass(frozen=True)
class LGFedAvg(SplitPersonalization):
    """All tensors except the head stay with the client, including running statistics."""

    def is_private(self, name: str, module: nn.Module) -> bool:
        return not self.in_head(name)
