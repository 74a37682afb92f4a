"""Which device a run uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fedlens.errors import ConfigError


@contextmanager
def drawing(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's own generators, from which dropout draws, begin at `seed`; afterwards CPU's and CUDA's are as before."""
    begin = torch.default_generator.manual_seed if device.type == "cpu" else torch.manual_seed
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        begin(seed)
        yield


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
