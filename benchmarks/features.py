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

SMALL = ("data.whole=sample", "data.rows=300", "data.image_size=32", "federated.num_rounds=2")


def run(cache: str, *overrides: str) -> tuple[float, float]:
    """Seconds from the command to the first round's result, and of a later round's training phase."""
    with FedLensRun(CONFIGS / "features.yaml", f"data.cache_dir={cache}", *overrides) as running:
        rounds = list(running.rounds())
    return rounds[0][0], median(line["seconds"]["train"] for _, line in rounds[1:])


def main() -> None:
    options, before = machine.parser(__doc__).parse_args(), machine.facts()
    overrides = SMALL if options.small else ()
    with tempfile.TemporaryDirectory(prefix="fedlens-features-") as cache:
        empty, _ = run(cache, *overrides)
        filled, later = run(cache, *overrides)
    first = empty - filled + later
    figures = {"first_epoch_s": first, "later_epoch_s": later, "ratio": first / later}
    for name, value in figures.items():
        print(f"{name:16} {value:.4f}")
    first_results = {"first_result_empty_cache_s": empty, "first_result_filled_cache_s": filled}
    print(machine.save("features", before, figures | first_results, small=options.small))


if __name__ == "__main__":
    main()
