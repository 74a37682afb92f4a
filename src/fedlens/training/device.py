"""Device selection, transfers to the device, repeatable computation on it, and the message when its memory is full."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from fedlens.core.types import ClientResult, PartialSum, State
from fedlens.errors import ConfigError, OutOfMemory
from fedlens.strategies.base import ClientUpdate

Sent = TypeVar("Sent", ClientUpdate, ClientResult, PartialSum)
"""What consists of a payload and extras."""


@contextmanager
def repeatable(seed: int, device: torch.device) -> Iterator[None]:
    """Make computation independent of earlier work in this process: torch's generators (used by dropout) are seeded
    with `seed`, and cuDNN uses deterministic kernels. Afterwards the CPU's and CUDA's generators are restored."""
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
def one_thread() -> Iterator[None]:
    """PyTorch uses one thread. Sums are then the same to the last bit on every machine, tensors of a few hundred
    numbers take a third of the time that they take with several, and no thread waits in a loop for a processor that
    another process uses."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


LESS_MEMORY = (
    "try memory.micro_batch=8, memory.gradient_checkpointing=true, memory.precision=bf16 or fewer runtime.workers, "
    "which a resume takes, too; or a smaller federated.batch_size, data.image_size or model in a new run"
)
"""Advice for when memory runs out."""


@contextmanager
def enough_memory() -> Iterator[None]:
    """Context manager or decorator for work with tensors: turns what allocators raise into `OutOfMemory`.

    Raises:
        OutOfMemory: the memory of the GPU or of the machine is full.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        place = _full(error)
        if place is None:
            raise
        # Drop the traceback: its frames hold the tensors that filled the memory.
        raise OutOfMemory(f"{place} memory is full{_wanted(str(error))}", LESS_MEMORY) from error.with_traceback(None)


def _full(error: Exception) -> str | None:
    """Which memory is full ("the GPU's", say); None if the error is another. PyTorch has an exception class for its own
    allocator on a GPU; errors of others are recognised by their text."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or "CUDA error: out of memory" in text or "_ALLOC_FAILED" in text:
        return "the GPU's"
    refused = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    return "the machine's" if refused or "DefaultCPUAllocator" in text or "std::bad_alloc" in text else None


def _wanted(text: str) -> str:
    """ ", 2.00 GiB more were wanted", as far as an allocator's message says it."""
    found = re.search(r"ried to allocate ([\d.]+) (\w+)", text)
    if found is None:
        return ""
    amount, unit = found.groups()
    if unit == "bytes":
        amount, unit = f"{int(amount) / 1e6:,.0f}", "MB"
    return f", {amount} {unit} more were wanted"


SMALL = 1 << 20
"""Bytes. Larger tensors are transferred one by one: their transfer takes longer than its latency, and packing would
copy them."""


def gathered(state: State, device: torch.device) -> dict[str, Tensor]:
    """`state`, with its small tensors on `device`. Small tensors on another device are packed and transferred together,
    once per dtype: a network has hundreds of them, and each separate transfer would pay the latency."""
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


def in_main_memory(sent: Sent) -> Sent:
    """With its tensors in main memory, where the server's half of an algorithm runs."""
    cpu = torch.device("cpu")
    payload, extra = (
        {name: value.to(cpu) for name, value in gathered(part, cpu).items()} for part in (sent.payload, sent.extra)
    )
    return replace(sent, payload=payload, extra=extra)


def read(*numbers: Tensor) -> list[float]:
    """The values of tensors () on one device, in one transfer: each waits until the device has done all that was asked
    of it before."""
    dtype = torch.float32 if numbers[0].device.type == "mps" else torch.float64  # Apple's has no float64
    values: list[float] = torch.stack([number.to(dtype) for number in numbers]).tolist()
    return values


def resolve_device(name: str, key: str = "runtime.device") -> torch.device:
    """`auto` is CUDA, else Apple's MPS, else the CPU. `key`: where the name was given.

    Raises:
        ConfigError: the device does not exist on this machine, or this PyTorch cannot use it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"{key}={name!r} is no device: use auto, cpu, cuda, cuda:<n> or mps", code="invalid_value", key=key
        ) from error
    missing = (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    )
    if missing:
        without = device.type == "cuda" and not torch.backends.cuda.is_built()
        why = "is not on this machine: "
        if without:
            why = f"needs a PyTorch with CUDA, and this is {torch.__version__}: install one (image fedlens:cuda), or "
        raise ConfigError(f"{key}={name!r} {why}use {key}=auto", code="unavailable", key=key)
    return device
