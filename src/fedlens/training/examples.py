"""A client's images as batches of model inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlens.data.types import FederatedData, Rows
from fedlens.models.base import beside_texts

Augment = Callable[[Tensor, torch.Generator], Tensor]
Prepare = Callable[[Tensor], Tensor]
Poison = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
Batch = tuple[Tensor, Tensor]
"""Inputs and labels; inputs are those of `models.base.beside_texts` where the model takes texts as well."""


@dataclass(frozen=True)
class Examples:
    """Rows of a `FederatedData`, read in batches onto a device.

    prepare  raw images (B, …) → model inputs (B, C, S, S)
    augment  applied to raw images, before `prepare`
    poison   (row numbers, raw images, labels) → images and labels that replace them; applied first

    Images stay uint8 until their batch is needed: the floats of one batch fit the processor's cache, those of a whole
    client do not.
    """

    data: FederatedData
    rows: Rows
    prepare: Prepare
    device: torch.device
    augment: Augment | None = None
    channels_last: bool = True
    poison: Poison | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def epochs(self, count: int, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """Batches of `count` passes, each in a new random order: inputs (B, …) and labels (B,)."""
        for rows in self._orders(count, batch_size, generator):
            yield self._fetch(rows, generator)

    def raw_epochs(self, count: int, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """The batches of `epochs`, as `raw` gives them: for inputs that several clients prepare together."""
        for rows in self._orders(count, batch_size, generator):
            yield self.raw(rows, generator)

    def chosen(self, masks: Iterable[Tensor], generator: torch.Generator) -> Iterator[Batch]:
        """A batch for each mask (N,): the images where it is true. A batch without any has inputs of shape (0,)."""
        rows = torch.from_numpy(self.rows)
        for mask in masks:
            yield self._fetch(rows[mask], generator) if mask.any() else self._nothing()

    def once(self, batch_size: int) -> Iterator[Batch]:
        """Batches of one pass in row order, without augmentation."""
        for batch in torch.from_numpy(self.rows).split(batch_size):
            yield self._fetch(batch, None)

    def raw(self, rows: Tensor, generator: torch.Generator | None) -> Batch:
        """Images, as the data has them, and labels (B,), in main memory; poisoned, and augmented if there is a
        `generator`."""
        images, labels = self.data.images.index_select(0, rows), self.data.labels.index_select(0, rows)
        if self.poison is not None:
            images, labels = self.poison(rows, images, labels)
        if self.augment is not None and generator is not None:
            images = self.augment(images, generator)
        return images, labels

    def ready(self, images: Tensor) -> Tensor:
        """Raw images (B, …) → model inputs on the device."""
        inputs = self.prepare(images.to(self.device, non_blocking=True))
        if self.channels_last and inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return inputs

    def _orders(self, count: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """The row numbers of each batch of `count` passes."""
        rows = torch.from_numpy(self.rows)
        for _ in range(count):
            yield from rows[torch.randperm(len(rows), generator=generator)].split(batch_size)

    def _nothing(self) -> Batch:
        return torch.empty(0, device=self.device), torch.empty(0, dtype=torch.long, device=self.device)

    def _fetch(self, rows: Tensor, generator: torch.Generator | None) -> Batch:
        images, labels = self.raw(rows, generator)
        return self._beside_texts(self.ready(images), rows), labels.to(self.device)

    def _beside_texts(self, images: Tensor, rows: Tensor) -> Tensor:
        """`images`; or, where the model takes texts, the images with them."""
        if self.data.text_inputs is None:
            return images
        has = (self.data.has_image, self.data.has_text)
        present = [torch.ones(len(rows), dtype=torch.bool) if known is None else known[rows] for known in has]
        return beside_texts(images, self.data.text_inputs.index_select(0, rows), torch.stack(present, 1))
