"""A client's images as batches of model inputs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedlens.data.types import FederatedData, Rows
from fedlens.models.base import beside_texts

Augment = Callable[[Tensor, torch.Generator], Tensor]
Prepare = Callable[[Tensor], Tensor]
Poison = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
Batch = tuple[Tensor, Tensor]
"""Inputs and labels; inputs are those of `models.base.beside_texts` where the model takes texts as well."""

LARGEST_SHARE = 1 / 8
"""Of the free memory of a GPU, that images may take in one process: several may share the GPU, and training needs the
rest."""


def resident(data: FederatedData, device: torch.device) -> FederatedData:
    """`data` with everything that batches are made of on `device`, if that is a GPU with room for it."""
    parts = {
        name: value
        for name in ("images", "labels", "text_inputs", "has_image", "has_text")
        if (value := getattr(data, name)) is not None
    }
    size = sum(value.nbytes for value in parts.values())
    if device.type != "cuda" or size > LARGEST_SHARE * torch.cuda.mem_get_info(device)[0]:
        return data
    return replace(data, **{name: value.to(device) for name, value in parts.items()})


@dataclass(frozen=True)
class Examples:
    """Rows of a `FederatedData`, read in batches onto a device.

    prepare  raw images (B, …) → model inputs (B, C, S, S)
    augment  applied to raw images, before `prepare`
    poison   (row numbers, raw images, labels) → images and labels that replace them; applied first, in main memory

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
        for parts in self._orders(count, batch_size, generator):
            yield from self._batches(parts, generator)

    def raw_epochs(self, count: int, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """The batches of `epochs`, as `raw` gives them: for inputs that several clients prepare together."""
        for parts in self._orders(count, batch_size, generator):
            for rows in parts:
                yield self.raw(rows, generator)

    def chosen(self, masks: Iterable[Tensor], generator: torch.Generator) -> Iterator[Batch]:
        """A batch for each mask (N,): the images where it is true. A batch without any has inputs of shape (0,)."""
        rows = torch.from_numpy(self.rows)
        for mask in masks:
            if mask.any():
                yield from self._batches([rows[mask]], generator)
            else:
                yield self._nothing()

    def once(self, batch_size: int) -> Iterator[Batch]:
        """Batches of one pass in row order, without augmentation."""
        yield from self._batches(torch.from_numpy(self.rows).split(batch_size), None)

    def raw(self, rows: Tensor, generator: torch.Generator | None) -> Batch:
        """Images, as the data has them, and labels (B,), where the data are; poisoned, and augmented if there is a
        `generator`."""
        images, labels = self._read(rows)
        return self._augmented(images, generator), labels

    def ready(self, images: Tensor) -> Tensor:
        """Raw images (B, …) → model inputs on the device."""
        inputs = self.prepare(images.to(self.device, non_blocking=True))
        if self.channels_last and inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return inputs

    def _orders(self, count: int, batch_size: int, generator: torch.Generator) -> Iterator[Sequence[Tensor]]:
        """The row numbers of each batch, for each of `count` passes."""
        rows = torch.from_numpy(self.rows)
        for _ in range(count):
            order = rows[torch.randperm(len(rows), generator=generator)]
            yield order.to(self.data.images.device, non_blocking=True).split(batch_size)

    def _nothing(self) -> Batch:
        return torch.empty(0, device=self.device), torch.empty(0, dtype=torch.long, device=self.device)

    def _batches(self, parts: Sequence[Tensor], generator: torch.Generator | None) -> Iterator[Batch]:
        """A batch for each tensor of row numbers. Those whose images have to come to a GPU are read one ahead, in a
        thread; draws are made when it is a batch's turn, so they are the same on every device."""
        apart = self.device.type == "cuda" != self.data.images.device.type
        read = ahead(self._read_pinned, parts) if apart else map(self._read, parts)
        for rows, (images, labels) in zip(parts, read, strict=True):
            here = self._augmented(images.to(self.device, non_blocking=True), generator)
            yield self._beside_texts(self.ready(here), rows), labels.to(self.device, non_blocking=True)

    def _read(self, rows: Tensor) -> Batch:
        """Raw images and labels."""
        rows = rows.to(self.data.images.device, non_blocking=True)
        images, labels = self.data.images.index_select(0, rows), self.data.labels.index_select(0, rows)
        return (images, labels) if self.poison is None else self.poison(rows, images, labels)

    def _read_pinned(self, rows: Tensor) -> Batch:
        """As `_read`, in memory from which a GPU copies while the processor goes on."""
        images, labels = self._read(rows)
        return images.pin_memory(), labels.pin_memory()

    def _augmented(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        return images if self.augment is None or generator is None else self.augment(images, generator)

    def _beside_texts(self, images: Tensor, rows: Tensor) -> Tensor:
        """`images`; or, where the model takes texts, the images with them."""
        if self.data.text_inputs is None:
            return images
        rows = rows.to(self.data.text_inputs.device, non_blocking=True)
        has = (self.data.has_image, self.data.has_text)
        present = [rows.new_ones(len(rows), dtype=torch.bool) if known is None else known[rows] for known in has]
        return beside_texts(images, self.data.text_inputs.index_select(0, rows), torch.stack(present, 1))


def ahead(read: Callable[[Tensor], Batch], parts: Iterable[Tensor]) -> Iterator[Batch]:
    """`map(read, parts)`, where each is read in a thread while the one before is used."""
    with ThreadPoolExecutor(1) as pool:
        coming: deque[Future[Batch]] = deque()
        for part in parts:
            coming.append(pool.submit(read, part))
            if len(coming) > 1:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
