"""A frozen network's first local epoch, which computes the features, against the later ones, which read them.

    .venv/bin/python benchmarks/features.py

EfficientNet-Lite0 with its ImageNet weights at 128 pixels, ten clients of 200 Fashion-MNIST images, all in every round.
FedLens computes features before the first round's clock starts, so their cost is what a run with an empty cache takes
longer to its first result than the same run again. The first epoch is that plus a later epoch: the median training
phase of the rounds after the first.
"""

from __future__ import annotations

import tempfile
from statistics import median

import machine
from fedlens_run import CONFIGS, FedLensRun


def run(cache: str) -> tuple[float, float]:
    """Seconds from the command to the first round's result, and of a later round's training phase."""
    with FedLensRun(CONFIGS / "features.yaml", f"data.cache_dir={cache}") as running:
        rounds = list(running.rounds())
    return rounds[0][0], median(line["seconds"]["train"] for _, line in rounds[1:])


def main() -> None:
    before = machine.facts()
    with tempfile.TemporaryDirectory(prefix="fedlens-features-") as cache:
        empty, _ = run(cache)
        filled, later = run(cache)
    first = empty - filled + later
    figures = {"first_epoch_s": first, "later_epoch_s": later, "ratio": first / later}
    for name, value in figures.items():
        print(f"{name:16} {value:.4f}")
    first_results = {"first_result_empty_cache_s": empty, "first_result_filled_cache_s": filled}
    print(machine.save("features", before, figures | first_results))


if __name__ == "__main__":
    main()
