"""Prompt tuning: the towers of a trained dual encoder are frozen, and a few vectors before the names of the classes are
all that is trained and sent.

Guo, Guo, Wang, Xu 2023 (PromptFL), https://arxiv.org/abs/2208.11625, section 3, which shares the vectors of Zhou, Yang,
Loy, Liu 2022 (CoOp), https://arxiv.org/abs/2109.01134, eq. 2, with the class at the end.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

VECTORS = 16
"""Length of the context, as in CoOp, section 4.1."""

STD = 0.02
"""Standard deviation of the first vectors: CoOp, section 4.1."""


class Context(nn.Module):
    """`VECTORS` trained embeddings (VECTORS, width), the same for all classes, in the place of a prompt's words."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(STD * torch.randn(VECTORS, width))

    def before(self, words: Tensor) -> Tensor:
        """Embeddings (B, L, width) → (B, VECTORS + L, width)."""
        return torch.cat([self.vectors.expand(len(words), -1, -1), words], 1)
