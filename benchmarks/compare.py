"""`fedlens compare` of 200 runs of 100 rounds: seconds of the command, and megabytes of its page.

    python benchmarks/compare.py [--small]

The runs are copies of one that is trained first, with other learning rates and seeds, five seeds each. Asked: the table
within 5 seconds, a page below 3 MB.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import machine
import yaml

import fedlens

SETTINGS = ("model.name=lenet", "tracking.tensorboard=false", "tracking.report=false")
SEEDS = 5


def runs(base: Path, count: int, rounds: int) -> Path:
    """A folder of so many runs."""
    first = fedlens.run(None, *SETTINGS, "federated.num_rounds=5", f"tracking.dir={base / 'first'}", show=False).folder
    lines = [json.loads(line) for line in (first / "metrics.jsonl").read_text().splitlines()]
    config = yaml.safe_load((first / "config.yaml").read_text())
    metrics = "".join(
        f"{json.dumps({**lines[number % len(lines)], 'round': number + 1})}\n" for number in range(rounds)
    )
    for number in range(count):
        copy = base / "logs" / f"run-{number:03}"
        shutil.copytree(first, copy, ignore=shutil.ignore_patterns("checkpoints", "model", "best", "clients", "lock"))
        config["seed"], config["optimizer"]["lr"] = number % SEEDS, 0.001 * (1 + number // SEEDS)
        (copy / "config.yaml").write_text(yaml.safe_dump(config))
        (copy / "metrics.jsonl").write_text(metrics)
    return base / "logs"


def seconds(*words: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "fedlens", "compare", *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    options, before = machine.parser(__doc__).parse_args(), machine.facts()
    turns, count, rounds = (1, 4, 5) if options.small else (5, 200, 100)
    with tempfile.TemporaryDirectory() as base:
        logs, page = str(runs(Path(base), count, rounds)), Path(base, "page.html")
        figures = {
            "table_s": median(seconds(logs) for _ in range(turns)),
            "with_page_s": median(seconds(logs, "--plot", str(page)) for _ in range(turns)),
            "page_mb": page.stat().st_size / 1e6,
        }
    for name, value in figures.items():
        print(f"{name:12} {value:.2f}")
    print(machine.save("compare", before, figures, small=options.small))


if __name__ == "__main__":
    main()
