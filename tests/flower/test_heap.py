"""Heaps as glibc counts them, in a process of its own: what is set once stays."""

import subprocess
import sys

import pytest

ARENAS = """
import ctypes, threading
from fedlens.flower.heap import one_heap
if {once}:
    one_heap()
threads = [threading.Thread(target=lambda: (bytes(100_000), barrier.wait())) for _ in range(4)]
barrier = threading.Barrier(4)
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
ctypes.CDLL(None).malloc_stats()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heaps")
@pytest.mark.parametrize("once", [True, False])
def test_threads_share_one_heap(once: bool) -> None:
    done = subprocess.run([sys.executable, "-c", ARENAS.format(once=once)], capture_output=True, text=True, check=True)
    assert (done.stderr.count("Arena") == 1) is once
