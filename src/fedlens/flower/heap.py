"""Memory settings of a server: glibc's malloc, where it is the C library."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_M_ARENA_MAX = -8


def one_heap() -> None:
    """Let all threads allocate from one heap, in this process, from now on. A no-op with another C library.

    glibc gives threads heaps of their own, which do not return freed memory. A server receives updates in short-lived
    threads, so parts of them stayed in every heap: the size of two models with ResNet-50 (benchmarks/README.md).
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
