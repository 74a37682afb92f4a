"""What a process that trains sets, before its first step."""

from __future__ import annotations

import os

from fedlens.core.heap import training_heap

KERNELS = 8192
"""Kernels that oneDNN keeps ready. A network needs some for each of its layers and each size of a batch: 4,300 for
MobileNetV3 with all sizes up to 32, so with oneDNN's own 1,024 it would make most of them again for every batch."""

_CAPACITY, _EARLIER_NAME = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "DNNL_PRIMITIVE_CACHE_CAPACITY"
"""oneDNN reads either."""


def keep_kernels() -> None:
    """Let oneDNN keep `KERNELS`, in this process and those that it starts. It looks once, before its first convolution,
    and a forked process has what this one has. Whoever has set its environment variable keeps that setting."""
    if _EARLIER_NAME not in os.environ:
        os.environ.setdefault(_CAPACITY, str(KERNELS))


def prepare_process() -> None:
    """Keep freed memory and oneDNN's kernels, in this process from now on (benchmarks/README.md has what both give)."""
    training_heap()
    keep_kernels()
