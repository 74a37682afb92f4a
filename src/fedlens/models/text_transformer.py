"""A small text encoder, trained from scratch: a transformer with normalisation before each block, as in GPT-2."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedlens.models.promptfl import Context
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

    def forward(self, tokens: Tensor, context: Context | None = None) -> Tensor:
        """`context`: stands before the words of each text."""
        tokens = tokens[:, : self._needed(tokens, context)]
        words, known = self.tokens(tokens), tokens != PADDING
        if context is not None:
            words, known = context.before(words), F.pad(known, (len(context.vectors), 0), value=True)
        outputs = self.layers(words + self.places[: words.shape[1]], src_key_padding_mask=~known)
        mean: Tensor = (outputs * known.unsqueeze(2)).sum(1) / known.sum(1, keepdim=True).clamp(min=1)
        return mean

    def _needed(self, tokens: Tensor, context: Context | None) -> int:
        """Tokens to compute: none for padding alone, and no more than there are places for."""
        longest = int((tokens != PADDING).sum(1).max().clamp(min=1))
        return min(longest, len(self.places) - (0 if context is None else len(context.vectors)))
