"""The software and hardware of a run: enough to compare two runs, or to repeat one."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

from fedlens.core.machine import cores

_PACKAGES = (
    "fedlens",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "opencv-python-headless",
    "datasets",
    "flwr",
    "pydantic",
    "safetensors",
)


def collect_versions(device: str) -> dict[str, object]:
    """Packages, Python, platform, usable cores, `device`, and the current folder's git commit (None: no repository)."""
    return {
        "python": platform.python_version(),
        "packages": {name: _installed(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "cores": cores(),
        "device": device,
        "git": _git_state(),
    }


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git_state() -> dict[str, object] | None:
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    changes = _git("status", "--porcelain")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(*arguments: str) -> str | None:
    """Output of git; None without git, outside of a repository, or if it takes over two seconds."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=2, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
