"""Memory settings of a process: of Python's garbage collector, and of malloc where that is glibc's."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
from contextlib import suppress
from pathlib import Path

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_MADV_HUGEPAGE = 14
_HUGE = 1 << 21
"""Bytes of a huge page, and how they are aligned."""

_LARGEST_BLOCK, _LARGEST_BLOCK_ONCE = 1 << 30, 1 << 25
"""Bytes from which malloc asks the system for a block of its own. Older versions of glibc take the second at most."""

_ROOM = 1 << 30
"""Bytes of addresses by which the heap grows. Memory is taken only where something is written."""

_OWN_SETTINGS = ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")

_OBJECTS = 20_000
"""New objects after which Python looks for unused ones among the young; its own number is 700 to 2,000."""


def rare_collections() -> None:
    """Let Python look less often for objects that only refer to each other, in this process from now on.

    PyTorch's import makes some hundred thousand objects, and all of them stay. To look through them again and again
    took half a second of the three in which a run begins.
    """
    gc.set_threshold(_OBJECTS)


def one_heap() -> None:
    """Let all threads allocate from one heap, in this process, from now on.

    glibc gives threads heaps of their own, which do not return freed memory. A server receives updates in short-lived
    threads, so parts of them stayed in every heap: the size of two models with ResNet-50 (benchmarks/README.md).
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def training_heap() -> None:
    """Keep freed memory for the next tensors, the first gibibyte of it in huge pages, in this process from now on.

    A step allocates and frees the same hundreds of megabytes again and again. glibc may give them back to the system
    each time, so every page is made anew; and with pages of 4 KiB the processor looks up addresses more often than it
    can remember them (benchmarks/README.md has what both cost). Whoever has set malloc's environment variables keeps
    those settings. Nothing is done either where the system counts addresses as memory: the heap grows by many at once.
    """
    if any(name in os.environ for name in _OWN_SETTINGS) or _addresses_are_counted():
        return
    with suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        if not libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK):
            libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK_ONCE)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_M_TOP_PAD, _ROOM)
        _ask_for_huge_pages(libc)


def _addresses_are_counted() -> bool:
    limited = any(
        resource.getrlimit(kind)[0] != resource.RLIM_INFINITY for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)
    )
    with suppress(OSError):
        return limited or Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2"
    return limited


def _ask_for_huge_pages(libc: ctypes.CDLL) -> None:
    """For the part by which the heap grows now. What is below it may be shared with the process that this one was
    forked from, and making huge pages there would copy it."""
    libc.sbrk.restype, libc.sbrk.argtypes = ctypes.c_void_p, [ctypes.c_ssize_t]
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    before = libc.sbrk(0)
    libc.free(libc.malloc(_LARGEST_BLOCK_ONCE))
    first, end = -(-before // _HUGE) * _HUGE, libc.sbrk(0) // _HUGE * _HUGE
    if end > first:
        libc.madvise(first, end - first, _MADV_HUGEPAGE)
