"""Adapter tuning: the towers of a trained dual encoder are frozen; an attention over the features of an image is all
that is trained and sent.

Lu, Hu, Wang, Xie 2023 (FedCLIP), https://arxiv.org/abs/2302.13485, section 3.3: I* = att(I) ⊗ I, where att is a linear
layer, tanh, a linear layer and softmax.
"""

from __future__ import annotations

from torch import Tensor, nn


class AttentionAdapter(nn.Module):
    """Features (B, width) → (B, width). Attention is even at first, which changes nothing, for features are scaled
    to length 1 afterwards."""

    def __init__(self, width: int) -> None:
        super().__init__()
        last = nn.Linear(width, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.attention = nn.Sequential(nn.Linear(width, width), nn.Tanh(), last, nn.Softmax(dim=1))

    def forward(self, features: Tensor) -> Tensor:
        weighed: Tensor = self.attention(features) * features
        return weighed
