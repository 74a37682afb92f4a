"""The machine that this process runs on."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def core_numbers() -> list[int]:
    """The cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # absent on macOS and Windows
    return sorted(affinity(0)) if affinity else list(range(os.cpu_count() or 1))


def cores() -> int:
    """How many cores this process may use."""
    return len(core_numbers())


def use_gpu(number: int) -> None:
    """Let this process, which has not used CUDA yet, have only the GPU `number` of those that it may use."""
    listed = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    os.environ["CUDA_VISIBLE_DEVICES"] = listed[number] if number < len(listed) else str(number)


def state_home() -> Path:
    """The folder of the clients' state folders: $XDG_STATE_HOME/fedlens, else ~/.local/state/fedlens."""
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "fedlens"


def memory_kills(root: Path = Path("/")) -> int | None:
    """How many processes of this one's control group the kernel has killed so far because memory was full; None where
    it does not count them. `root`: the folder that holds proc and sys."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
        own = next(line.removeprefix("0::/") for line in groups if line.startswith("0::/"))
        events = (root / "sys/fs/cgroup" / own / "memory.events").read_text().split()
        return int(events[events.index("oom_kill") + 1])
    except (OSError, ValueError, StopIteration):
        return None


def first_to_be_killed() -> None:
    """Let the kernel choose this process before others where the machine's memory is full."""
    with suppress(OSError):  # absent outside of Linux
        Path("/proc/self/oom_score_adj").write_text("1000")


def memory_of(pid: int | None) -> int:
    """Bytes of a process and its children; what they share counts once."""
    import psutil

    total = 0
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                known = one.memory_full_info()
                total += getattr(known, "pss", known.rss)
    return total
