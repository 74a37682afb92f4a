"""A client's images as batches, prepared for the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlens.data.types import FederatedData, Rows

PREPARE_AT_ONCE = 64 * 2**20
"""Bytes of float inputs up to which a client's images are prepared once a task, not once a batch."""

Augment = Callable[[Tensor, torch.Generator], Tensor]
Prepare = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Examples:
    """Rows of a `FederatedData`, on the way to a device.

    prepare  raw images (B, …) → model inputs (B, C, S, S); augment works on the raw images before it
    """

    data: FederatedData
    rows: Rows
    prepare: Prepare
    device: torch.device
    augment: Augment | None = None
    channels_last: bool = True

    def __len__(self) -> int:
        return len(self.rows)

    def epochs(self, count: int, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of `count` passes, each in a new random order: inputs (B, …) and labels (B,)."""
        whole = self._whole() if self.augment is None else None
        for _ in range(count):
            order = torch.randperm(len(self.rows), generator=generator)
            if whole is None:
                yield from self._batches(torch.from_numpy(self.rows)[order], batch_size, generator)
            else:
                inputs, labels = (shuffled(values, order.to(self.device)) for values in whole)
                yield from zip(inputs.split(batch_size), labels.split(batch_size), strict=True)

    def once(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of one pass in the rows' own order, without augmentation."""
        for rows in torch.from_numpy(self.rows).split(batch_size):
            yield self._fetch(rows)

    def _batches(self, rows: Tensor, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in rows.split(batch_size):
            if self.augment is None:
                yield self._fetch(batch)
            else:
                images = self.augment(self.data.images[batch], generator)
                yield self._ready(images), self.data.labels[batch].to(self.device)

    def _whole(self) -> tuple[Tensor, Tensor] | None:
        """Everything at once, when it is small."""
        floats = len(self.rows) * self.data.images[0].numel()
        return self._fetch(torch.from_numpy(self.rows)) if 4 * floats <= PREPARE_AT_ONCE else None

    def _fetch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self._ready(self.data.images[rows]), self.data.labels[rows].to(self.device)

    def _ready(self, images: Tensor) -> Tensor:
        return self._layout(self.prepare(images.to(self.device, non_blocking=True)))

    def _layout(self, inputs: Tensor) -> Tensor:
        if self.channels_last and inputs.dim() == 4:
            return inputs.contiguous(memory_format=torch.channels_last)
        return inputs


def shuffled(values: Tensor, order: Tensor) -> Tensor:
    """`values` with its rows in `order`, in the same memory format; row by row copies, whatever the format."""
    if values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last):
        return values.permute(0, 2, 3, 1).index_select(0, order).permute(0, 3, 1, 2)
    return values.index_select(0, order)
