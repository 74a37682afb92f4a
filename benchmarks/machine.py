"""Where a benchmark ran, and the file that keeps its figures."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

RESULTS = Path(__file__).parent / "results"


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A script's arguments. With `--small` a script does its least work, to show that it still runs."""
    arguments = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--small", action="store_true", help="the least work, to see that it runs; nothing is kept")
    return arguments


def need_gpu(arguments: argparse.ArgumentParser, device: str) -> None:
    """End with a message where a GPU is asked for and there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        arguments.error("PyTorch finds no GPU here; --device cpu measures the same on the CPU")


def facts(device: str = "cpu") -> dict[str, Any]:
    """Cores, CPU model, memory in GiB, load before the run, the versions that matter, and the GPU if one is used."""
    gpu = {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda} if device == "cuda" else {}
    return {
        "cores": os.cpu_count(),
        "cpu": cpu_model(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_1min": os.getloadavg()[0],
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "fedlens": version("fedlens"),
        **gpu,
    }


def cpu_model() -> str:
    """The CPU's name as Linux knows it, else the platform's."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def save(name: str, before: dict[str, Any], figures: dict[str, Any], *, small: bool) -> str:
    """Write results/<name>.json: the machine's `facts` taken before the run, the command, the date, the figures.

    Gives its path. Figures of `--small` work mean nothing, and are not written.
    """
    if small:
        return "figures of the least work are not kept"
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    record = {"command": command, "date": datetime.now(UTC).date().isoformat(), "machine": before, **figures}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    return str(path)
