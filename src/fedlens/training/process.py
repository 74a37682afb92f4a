"""What a process that trains sets, before its first step."""

from __future__ import annotations

import os

from fedlens.core.heap import training_heap

KERNELS = 8192
"""Kernels that oneDNN keeps ready. A network needs some for each of its layers and each size of a batch: 4,300 for
MobileNetV3 with all sizes up to 32, so with oneDNN's own 1,024 it would make most of them again for every batch."""


def prepare_process() -> None:
    """Keep freed memory and oneDNN's kernels, in this process from now on (benchmarks/README.md has what both give).
    Whoever has set the environment variables of malloc or oneDNN keeps those settings."""
    training_heap()
    if "DNNL_PRIMITIVE_CACHE_CAPACITY" not in os.environ:  # oneDNN's name of earlier versions, which it still reads
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS))
