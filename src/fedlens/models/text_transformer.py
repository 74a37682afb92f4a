"""A small text encoder, trained from scratch: a transformer with normalisation before each block, as in GPT-2."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedlens.models.text_readers import PADDING

LAYERS, HEADS = 2, 4
STD = 0.02
"""Standard deviation of the first embeddings, as in GPT-2."""


class TextTransformer(nn.Module):
    """Token numbers (B, L) → the mean of the outputs over the tokens of a text, (B, width)."""

    def __init__(self, vocabulary: int, length: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=PADDING)
        nn.init.normal_(self.tokens.weight, std=STD)  # torch's own 1 would drown what the layers add
        self.places = nn.Parameter(nn.init.normal_(torch.empty(length, width), std=STD))
        layer = nn.TransformerEncoderLayer(
            width, HEADS, 2 * width, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens[
            :, : int((tokens != PADDING).sum(1).max().clamp(min=1))
        ]  # nothing is computed for padding alone
        padding = tokens == PADDING
        outputs = self.layers(self.tokens(tokens) + self.places[: tokens.shape[1]], src_key_padding_mask=padding)
        known = (~padding).unsqueeze(2)
        mean: Tensor = (outputs * known).sum(1) / known.sum(1).clamp(min=1)
        return mean
