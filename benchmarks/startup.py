"""How long one waits: for the help, for a first round, and for training to begin again on a folder of photographs.

    .venv/bin/python benchmarks/startup.py

The photographs are 20,000 generated JPEG files of 160 × 120 pixels in ten class folders, made anew in a temporary
folder each time. Training begins when the first round does: the arrival of its result less the round's own seconds.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import cv2
import machine
import numpy as np
from fedlens_run import CONFIGS, FEDLENS, FedLensRun, spent

CONFIG = CONFIGS / "speed-lenet.yaml"


def help_seconds() -> float:
    """`fedlens --help`, from the command to its end."""
    started = time.perf_counter()
    subprocess.run([str(FEDLENS), "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def first_round(*overrides: str) -> tuple[float, float]:
    """Seconds from the command to the begin of training, and to the first round's result."""
    with FedLensRun(CONFIG, "federated.num_rounds=1000", *overrides) as run:  # the last round is also evaluated
        arrived, line = next(run.rounds())
        return arrived - spent(line, without=()), arrived


def write_photographs(folder: Path, count: int) -> None:
    """Smooth coloured noise: what JPEG files of photographs are like in size and decoding time."""
    rng = np.random.default_rng(0)
    for index in range(count):
        target = folder / f"class{index % 10}"
        target.mkdir(exist_ok=True)
        pixels = cv2.resize(
            rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), (160, 120), interpolation=cv2.INTER_CUBIC
        )
        cv2.imwrite(str(target / f"{index:05}.jpg"), pixels)


def import_seconds() -> float:
    """`import torch` alone, from the start of Python to its end."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.perf_counter() - started


def photographs(count: int, again: int) -> dict[str, float]:
    """Seconds until training begins on a folder of photographs: the first run, and medians of later ones, of `import
    torch` alone after each, and of the difference."""
    with tempfile.TemporaryDirectory(prefix="fedlens-photographs-") as name:
        images, cache = Path(name) / "images", Path(name) / "cache"
        images.mkdir()
        write_photographs(images, count)
        overrides = ("data.source=imagefolder", f"data.path={images}", "data.image_size=64", f"data.cache_dir={cache}")
        first = first_round(*overrides)[0]
        later = [(first_round(*overrides)[0], import_seconds()) for _ in range(again)]
    return {
        "photographs_first_begin_s": first,
        "photographs_again_begin_s": median(run for run, _ in later),
        "import_torch_s": median(torch for _, torch in later),
        "photographs_again_less_import_s": median(run - torch for run, torch in later),
    }


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--photographs", type=int, default=20_000)
    options, before = parser.parse_args(), machine.facts()
    if options.small:
        options.photographs = 200
    overrides = ("data.source=sample",) if options.small else ()
    figures = {
        "help_s": median(help_seconds() for _ in range(1 if options.small else 11)),
        "first_result_s": median(first_round(*overrides)[1] for _ in range(1 if options.small else 5)),
        **photographs(options.photographs, again=1 if options.small else 9),
    }
    for name, value in figures.items():
        print(f"{name:28} {value:.3f}")
    print(machine.save("startup", before, figures | {"photographs": options.photographs}, small=options.small))


if __name__ == "__main__":
    main()
