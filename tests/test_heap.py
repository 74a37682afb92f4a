"""Heaps as glibc counts them, in a process of its own: what is set once stays."""

import os
import platform
import subprocess
import sys

import pytest

GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's heap")

ARENAS = """
import ctypes, threading
from fedlens.core.heap import one_heap
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


@GLIBC
@pytest.mark.parametrize("once", [True, False])
def test_threads_share_one_heap(once: bool) -> None:
    done = subprocess.run([sys.executable, "-c", ARENAS.format(once=once)], capture_output=True, text=True, check=True)
    assert (done.stderr.count("Arena") == 1) is once


HUGE_PAGES = """
import re
from pathlib import Path
from fedlens.core.heap import training_heap
training_heap()
def faults():
    return int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[7])
def work():
    kept = [b"1" * 12_000_000 for _ in range(10)]
work()
before = faults()
work()
flags = re.findall(r"VmFlags:(.*)", Path("/proc/self/smaps").read_text())
print(faults() - before, any(" hg" in line for line in flags))
"""


@GLIBC
@pytest.mark.parametrize("own", [{}, {"MALLOC_TOP_PAD_": "131072"}])
def test_freed_memory_stays_in_huge_pages_unless_the_user_has_settings(own: dict[str, str]) -> None:
    """120 MB: 29,000 pages, which are made once; with glibc's own settings, each time."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC", "GLIBC"))}
    done = subprocess.run(
        [sys.executable, "-c", HUGE_PAGES], capture_output=True, text=True, check=True, env=plain | own
    )
    faults, advised = done.stdout.split()
    assert (int(faults) < 100, advised) == ((True, "True") if not own else (False, "False"))


LIMITED = """
import resource
from fedlens.core.heap import training_heap
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
training_heap()
print(sum(len(b"1" * 12_000_000) for _ in range(50)))
kept = [b"1" * 12_000_000 for _ in range(50)]
"""


@GLIBC
def test_a_process_with_a_limit_of_addresses_can_use_what_it_has() -> None:
    """600 MB of 1 GiB: a heap that grows by a gibibyte at once could not grow at all."""
    subprocess.run([sys.executable, "-c", LIMITED], check=True, capture_output=True)
