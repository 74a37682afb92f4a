"""Losses of images and their texts, which say which text belongs to which image.

Contrastive training (InfoNCE): Radford, Kim, Hallacy, Ramesh, Goh, Agarwal, Sastry, Askell, Mishkin, Clark, Krueger,
Sutskever 2021, https://arxiv.org/abs/2103.00020, section 2.3. The pairwise sigmoid loss: Zhai, Mustafa, Kolesnikov,
Beyer 2023 (SigLIP), https://arxiv.org/abs/2303.15343, algorithm 1.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

PairLoss = Literal["infonce", "siglip"]


def info_nce(logits: Tensor) -> Tensor:
    """(N, N) similarities of N images with their N texts → the mean of the cross-entropies over texts and over images:
    Radford et al., figure 3."""
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def pairwise_sigmoid(logits: Tensor) -> Tensor:
    """(N, N) similarities of N images with their N texts → −1/N Σᵢⱼ log σ(zᵢⱼ lᵢⱼ), where z is 1 for an image's own
    text and −1 for all others: Zhai et al., algorithm 1."""
    signs = 2 * torch.eye(len(logits), device=logits.device) - 1
    return -F.logsigmoid(signs * logits).sum() / len(logits)
