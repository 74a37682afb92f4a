"""Cached features: a frozen backbone processes each image once, its features are kept on disk, and only the rest of the
model is trained.

This is valid while neither the images (no augmentation) nor the frozen part change. The file name contains a digest of
the frozen weights and structure, the preprocessing, the images and the kind of device, so a change of any of these
creates a new file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlens.core.files import mark_used
from fedlens.data.types import FederatedData
from fedlens.errors import DataError
from fedlens.models.base import Recognizer
from fedlens.models.freezing import cut_behind

Progress = Callable[[int, int], None]
"""(images done, images in all)."""

Forward = Callable[[Tensor], NDArray[np.float32]]
"""Stored images → features."""

BYTES = 4
"""Size of a float32."""

FEATURES_BATCH = 64
"""Images per batch, unless memory is short."""


def after_frozen(
    model: Recognizer,
    data: FederatedData,
    *,
    device: torch.device,
    cache_dir: Path,
    batch_size: int = FEATURES_BATCH,
    progress: Progress | None = None,
) -> tuple[nn.Module, FederatedData]:
    """The trained part of `model`, and `data` with its images replaced by the output of the frozen part.

    A partly frozen backbone is split only where the frozen part is a chain of modules and its output has no more
    numbers than an image: the float32 file is then at most four times the size of the uint8 images. Otherwise model and
    images are returned unchanged.

    Raises:
        DataError: the features cannot be stored.
    """
    extract = partial(
        extract_features, data=data, device=device, cache_dir=cache_dir, batch_size=batch_size, progress=progress
    )
    if model.held == (model.backbone,):
        return model.head, extract(model)
    model.to(device)  # before tensors are shared: moving a model replaces its buffers
    some = torch.randint(256, (2, *data.images.shape[1:]), generator=torch.Generator().manual_seed(0))
    some = some / 255 if data.images.is_floating_point() else some.to(torch.uint8)
    found = cut_behind(model, some.to(device))
    if found is None:
        return model, data
    frozen = Recognizer(found.chain, nn.Identity(), model.preprocessing)
    frozen.hold([found.chain])
    if found.shape.numel() > some[0].numel():
        return model, data
    features = extract(frozen)
    return found.tail, replace(features, images=features.images.unflatten(1, found.shape))


def extract_features(
    model: Recognizer,
    data: FederatedData,
    *,
    device: torch.device,
    cache_dir: Path,
    batch_size: int = FEATURES_BATCH,
    progress: Progress | None = None,
) -> FederatedData:
    """`data` with the backbone's features, float32 (N, D), in place of its images; mapped from a file in `cache_dir`.

    The first call runs the backbone in eval mode over all rows; if it is interrupted, the next call continues at the
    last complete batch. Once the file is complete, a call only maps it. `model` moves to `device` and keeps its
    train/eval mode.

    Raises:
        DataError: the folder cannot be written, or the disk is full.
    """
    key = features_key(model, data, device)
    file = cache_dir / f"features-{key}.f32"
    if file.exists():
        mark_used(file)
    else:
        try:
            cache_dir.mkdir(parents=True, exist_ok=True)
            _complete(file, model, data.images, device, batch_size, progress or _silent)
        except OSError as error:
            raise DataError(f"{file}: the features cannot be stored ({error.strerror}); see data.cache_dir") from error
    values = file.stat().st_size // BYTES
    features = torch.from_file(str(file), shared=False, size=values, dtype=torch.float32).view(len(data.images), -1)
    return replace(data, images=features, cache_key=f"{data.cache_key}-{key}")


def features_key(model: Recognizer, data: FederatedData, device: torch.device) -> str:
    """32 hex digits: a digest of everything that the features depend on."""
    how = (data.cache_key, tuple(data.images.shape), model.preprocessing, str(model.backbone), device.type)
    return network_key(repr(how), model.backbone)


def network_key(made_with: str, network: nn.Module) -> str:
    """32 hex digits: a digest of the tensors of `network` and of what else its outputs depend on."""
    digest = hashlib.sha256(made_with.encode())
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def _silent(done: int, total: int) -> None:
    return None


def _complete(
    file: Path, model: Recognizer, images: Tensor, device: torch.device, batch_size: int, progress: Progress
) -> None:
    """Fill the partial file from its current end, then rename it to its final name.

    Two processes may do so at the same time: both write the same bytes at the same offsets, and only after bytes that
    already exist, so the file never has holes.
    """
    partial = file.with_suffix(".part")
    training = model.training
    model.eval().to(device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        with os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as output, torch.inference_mode():
            _write(output, lambda rows: _forward(model, rows.to(device)), images, batch_size, progress)
    finally:
        model.train(training)
    try:
        partial.replace(file)
    except FileNotFoundError:
        if not file.exists():  # the other process may have renamed it first
            raise


def _write(output: BinaryIO, forward: Forward, images: Tensor, batch_size: int, progress: Progress) -> None:
    width = forward(images[:1]).shape[1]
    stored = output.seek(0, os.SEEK_END) // (BYTES * width)
    # Whole batches only: a resumed run then groups the images as an uninterrupted one, down to the last bit.
    start = stored // batch_size * batch_size
    output.seek(start * width * BYTES)
    for first in range(start, len(images), batch_size):
        output.write(forward(images[first : first + batch_size]).tobytes())
        output.flush()
        progress(min(first + batch_size, len(images)), len(images))
    os.fsync(output.fileno())


def _forward(model: Recognizer, images: Tensor) -> NDArray[np.float32]:
    """Images → float32 (B, D), on the CPU."""
    batch = model.prepare(images)
    if batch.ndim == 4:
        batch = batch.contiguous(memory_format=torch.channels_last)
    return np.asarray(model.backbone(batch).float().flatten(1).cpu().numpy(), np.float32)
