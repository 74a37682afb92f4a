"""FedPer: Arivazhagan, Aggarwal, Singh, Choudhary 2019, "Federated Learning with Personalization Layers",
https://arxiv.org/abs/1912.00818, Algorithms 1 and 2.

Base layers W_B are federated, personalisation layers W_P stay with their client; a client trains both together.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from fedlens.personalization.base import personalizations
from fedlens.personalization.split import SplitPersonalization


@personalizations.register("fedper", summary="the head stays with the client: shared features, a classifier of its own")
@dataclass(frozen=True)
class FedPer(SplitPersonalization):
    """`head` selects the paper's W_P: by default one linear layer; another prefix can select more of the model."""

    def is_private(self, name: str, module: nn.Module) -> bool:
        return self.in_head(name)
