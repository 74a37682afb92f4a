"""Which device a run uses, how tensors come there, how it repeats there, and what is said when its memory is full."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from fedlens.core.types import State
from fedlens.errors import ConfigError, RuntimeFailure


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


LESS_MEMORY = (
    "try memory.micro_batch=8, memory.gradient_checkpointing=true, memory.precision=bf16 or fewer runtime.workers, "
    "which a resume takes, too; or a smaller federated.batch_size, data.image_size or model in a new run"
)
"""What helps where memory ran out."""


@contextmanager
def enough_memory() -> Iterator[None]:
    """For work with tensors, as a context or a decorator.

    Raises:
        RuntimeFailure: the memory of the GPU, or of the machine, is full.
    """
    try:
        yield
    except RuntimeError as error:
        place = _full(error)
        if place is None:
            raise
        wanted = str(error).partition("Tried to allocate ")[2].partition(". ")[0]
        more = f", {wanted} more were wanted" if wanted else ""
        # without its traceback, whose frames hold the tensors that filled the memory
        raise RuntimeFailure(f"{place} memory is full{more}: {LESS_MEMORY}") from error.with_traceback(None)


def _full(error: RuntimeError) -> str | None:
    """Whose memory is full. PyTorch has a class for its own allocator's refusals; other libraries' come as text."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or "CUDA error: out of memory" in text or "_ALLOC_FAILED" in text:
        return "the GPU's"
    return "the machine's" if "DefaultCPUAllocator" in text else None


SMALL = 1 << 20
"""Bytes. What is larger is longer under way than it waits, and a copy of it costs more than the wait."""


def gathered(state: State, device: torch.device) -> dict[str, Tensor]:
    """`state`, with its small tensors on `device`. Those that lie elsewhere go there together, in one transfer for each
    type of number: the hundreds of them that a network has would each wait for their own."""
    found = dict(state)
    elsewhere = {
        name: value for name, value in state.items() if value.nbytes < SMALL and value.device.type != device.type
    }
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
