"""Which device a run uses, how tensors come there, how it repeats there, and what is said when its memory is full."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from fedlens.errors import ConfigError, RuntimeFailure
from fedlens.federation.types import State


@contextmanager
def repeatable(seed: int, device: torch.device) -> Iterator[None]:
    """What does not depend on what this process did before, nor on chance: torch's own generators, from which dropout
    draws, begin at `seed`, and cuDNN's kernels add in a fixed order. Afterwards CPU's and CUDA's are as before."""
    begin = torch.default_generator.manual_seed if device.type == "cpu" else torch.manual_seed
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            begin(seed)
            yield
    finally:
        torch.backends.cudnn.deterministic = before


@contextmanager
def enough_memory() -> Iterator[None]:
    """For work on a GPU, as a context or a decorator.

    Raises:
        RuntimeFailure: its memory is full.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        wanted = str(error).partition("Tried to allocate ")[2].partition(". ")[0]
        more = f", {wanted} more were wanted" if wanted else ""
        raise RuntimeFailure(
            f"the GPU's memory is full{more}: go on by `fedlens resume` with memory.micro_batch=8, "
            "memory.gradient_checkpointing=true, memory.precision=bf16 or fewer runtime.workers; or begin again with a "
            "smaller federated.batch_size, data.image_size or model"
        ) from error


SMALL = 1 << 20
"""Bytes. What is larger is longer under way than it waits, and a copy of it costs more than the wait."""


def moved(state: State, device: torch.device) -> dict[str, Tensor]:
    """`state` on `device`. Small tensors that lie elsewhere go there together, in one transfer for each type of number:
    the hundreds of them that a network has would each wait for their own."""
    found = {name: value if value.nbytes < SMALL else value.to(device) for name, value in state.items()}
    elsewhere = {name: value for name, value in found.items() if value.device.type != device.type}
    for dtype in {value.dtype for value in elsewhere.values()}:
        some = {name: value for name, value in elsewhere.items() if value.dtype == dtype}
        together = torch.cat([value.reshape(-1) for value in some.values()]).to(device)
        parts = together.split([value.numel() for value in some.values()])
        found |= {name: part.view(some[name].shape) for name, part in zip(some, parts, strict=True)}
    return found


def resolve_device(name: str) -> torch.device:
    """`auto` is CUDA, else Apple's MPS, else the CPU.

    Raises:
        ConfigError: the device does not exist on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"runtime.device={name!r} is no device: use auto, cpu, cuda, cuda:<n> or mps") from error
    missing = (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    )
    if missing:
        raise ConfigError(f"runtime.device={name!r} is not on this machine: use runtime.device=auto")
    return device
