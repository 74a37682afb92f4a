"""Dropout of clients that train together (`training.vectorized`): every client has the draws that it has alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fedlens.core.instead import Instead

Mask = Callable[[Tensor], Tensor]
"""(K, B, …) → the factors of its numbers."""

MASKING = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)


class ClientDraws:
    """The states of PyTorch's own generators, one for each client."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._states: list[tuple[Tensor, ...]] = []

    def keep(self) -> None:
        """The generators' state, as it is now, is that of the next client."""
        self._states.append(self._now())

    def resume(self, number: int) -> None:
        """The generators go on where those of the client are."""
        own, *on_device = self._states[number]
        torch.set_rng_state(own)
        for state in on_device:
            torch.cuda.set_rng_state(state, self._device)

    @contextmanager
    def of(self, number: int) -> Iterator[None]:
        """What is drawn inside is drawn for that client."""
        self.resume(number)
        yield
        self._states[number] = self._now()

    def _now(self) -> tuple[Tensor, ...]:
        own = torch.get_rng_state()
        return (own, torch.cuda.get_rng_state(self._device)) if self._device.type == "cuda" else (own,)


class ClientDropout(Instead):
    """A context for `torch.vmap` over clients, in which dropout draws for one client after the other.

    numbers  of the clients in `draws`
    sizes    rows of each client's batch; the rows behind them, with which it is filled up, draw nothing. What is
             dropped has one row for each of the batch, or another number that does not depend on the client
    maps     how maps (B, C, H, W) of one client alone lie in memory: draws follow the memory's order
    """

    def __init__(
        self, draws: ClientDraws, numbers: Sequence[int], sizes: Sequence[int], maps: torch.memory_format
    ) -> None:
        super().__init__({func: partial(self._dropout, func) for func in MASKING})
        self._draws = draws
        self._clients = list(zip(numbers, sizes, strict=True))
        self._maps = maps

    def _dropout(
        self, func: Callable[..., Tensor], input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        if not training or p == 0:
            return input
        found: Tensor = _Masked.apply(input, partial(self._mask, func, p))  # type: ignore[no-untyped-call]
        return found

    def _mask(self, func: Callable[..., Tensor], p: float, batches: Tensor) -> Tensor:
        longest = max(size for _, size in self._clients)
        masks = torch.ones_like(batches)
        for own, (number, size) in zip(masks, self._clients, strict=True):
            rows = size if len(own) == longest else len(own)  # a first axis of another length holds more than rows
            with self._draws.of(number):
                own[:rows] = self._drawn(func, p, own, 2 if rows == 1 else rows)[:rows]  # alone, one row is doubled
        return masks

    def _drawn(self, func: Callable[..., Tensor], p: float, like: Tensor, rows: int) -> Tensor:
        ones = like.new_ones(rows, *like.shape[1:])
        return func(ones.contiguous(memory_format=self._maps) if ones.dim() == 4 else ones, p, True)


class _Masked(torch.autograd.Function):
    """A tensor times its mask; of several clients at once, as `torch.vmap` computes it."""

    @staticmethod
    def forward(input: Tensor, mask: Mask) -> Tensor:
        raise NotImplementedError("dropout of a tensor that all clients share")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is kept: what `vmap` computes has its own gradient."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], input: Tensor, mask: Mask) -> tuple[Tensor, int]:
        batches = input.movedim(in_dims[0], 0)
        return batches * mask(batches.detach()), 0
