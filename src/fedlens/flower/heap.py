"""How a server keeps its memory: glibc's malloc, where it is the C library."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_M_ARENA_MAX = -8


def one_heap() -> None:
    """Let all threads allocate from one heap, in this process, from now on. A no-op with another C library.

    glibc gives threads heaps of their own, which keep what is freed. A server's updates come in through short-lived
    threads, so that pieces of them stayed in every heap: two models' worth with ResNet-50 (benchmarks/README.md).
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
