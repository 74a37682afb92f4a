"""A small text encoder, trained from scratch: a transformer with normalisation before each part, as in GPT-2 (Radford
et al. 2019, section 2.3).

The texts of a batch differ in length. Their tokens lie packed, one behind the other, so that no padding is computed;
only the attention sees each text in a row of its own. PyTorch's nested tensors are made for this, but have no attention
on the CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedlens.models.promptfl import Context
from fedlens.models.text_by_numpy import HEADS
from fedlens.models.tokenizer import PADDING

BLOCKS = 2

DROPOUT = 0.1
"""Of what a block adds, as in GPT-2. The weights of the attention have none: with it they are computed the slow way."""

STD = 0.02
"""Standard deviation of the first embeddings, as in GPT-2."""


class TextTransformer(nn.Module):
    """Token numbers (B, L) → the mean of the outputs over the tokens of a text, (B, width)."""

    def __init__(self, vocabulary: int, length: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=PADDING)
        nn.init.normal_(self.tokens.weight, std=STD)  # torch's own 1 would drown what the blocks add
        self.places = nn.Parameter(nn.init.normal_(torch.empty(length, width), std=STD))
        self.blocks = nn.ModuleList(Block(width) for _ in range(BLOCKS))

    def forward(self, tokens: Tensor, context: Context | None = None) -> Tensor:
        """`context`: stands before the words of each text."""
        tokens = tokens[:, : self._needed(tokens, context)]
        words, known = self.tokens(tokens), tokens != PADDING
        if context is not None:
            words, known = context.before(words), F.pad(known, (len(context.vectors), 0), value=True)
        packing = Packing(known)
        outputs = packing.packed(words + self.places[: words.shape[1]])
        for block in self.blocks:
            outputs = block(outputs, packing)
        mean: Tensor = packing.padded(outputs).sum(1) / known.sum(1, keepdim=True).clamp(min=1)
        return mean

    def _needed(self, tokens: Tensor, context: Context | None) -> int:
        """Tokens to compute: no more than the longest text has, and no more than there are places for."""
        longest = int((tokens != PADDING).sum(1).max().clamp(min=1))
        return min(longest, len(self.places) - (0 if context is None else len(context.vectors)))


class Packing:
    """Where the T tokens of a batch's texts lie; `known` (B, L) says which places of the batch hold one."""

    def __init__(self, known: Tensor) -> None:
        self.known = known
        self._places = known.flatten().nonzero().squeeze(1)

    def packed(self, padded: Tensor) -> Tensor:
        """(B, L, D) → (T, D)."""
        return padded.flatten(0, 1).index_select(0, self._places)

    def padded(self, packed: Tensor) -> Tensor:
        """(T, D) → (B, L, D), zeros where no token is."""
        empty = packed.new_zeros(self.known.numel(), packed.shape[1])
        filled: Tensor = empty.index_copy(0, self._places, packed).unflatten(0, self.known.shape)
        return filled


class Block(nn.Module):
    """Packed tokens (T, width) → (T, width): each looks at all of its text, then passes a perceptron."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.attended = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, tokens: Tensor, packing: Packing) -> Tensor:
        tokens = tokens + self.dropout(self._attention(self.attention_norm(tokens), packing))
        output: Tensor = tokens + self.dropout(self.mlp(self.mlp_norm(tokens)))
        return output

    def _attention(self, tokens: Tensor, packing: Packing) -> Tensor:
        heads = packing.padded(self.queries_keys_values(tokens)).unflatten(2, (3, HEADS, -1))
        queries, keys, values = heads.permute(2, 0, 3, 1, 4)  # (B, heads, L, width / heads)
        found = F.scaled_dot_product_attention(queries, keys, values, attn_mask=packing.known[:, None, None])
        output: Tensor = self.attended(packing.packed(found.transpose(1, 2).flatten(2)))
        return output
