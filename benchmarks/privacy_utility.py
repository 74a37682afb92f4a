"""What accuracy each ε buys: differential privacy of whole clients against none.

    .venv/bin/python benchmarks/privacy_utility.py
    .venv/bin/python benchmarks/privacy_utility.py --seeds 0 --epsilons 8 2

LeNet on Fashion-MNIST dealt out evenly to 1,000 clients of 60 images, 100 of them a round on average, 100 rounds of two
local epochs, clip 1, δ = 1e-5. Three ways to spend the same ε: Poisson cohorts with independent noise (what
amplification by sampling is worth), groups that take turns with independent noise (none), and the same groups with
DP-FTRL. "no noise" clips and samples alike. The table has the test accuracy of the last round: mean, lowest and highest
over the seeds. Noise and cohorts come from the operating system, so a run does not repeat to the bit. What has run is
kept in the folder `--work`: the same command again does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

import machine
from rich.console import Console
from rich.table import Table

import fedlens
from fedlens.tracking.metrics import read_metrics
from fedlens.tracking.run_dir import find_runs

WAYS: Mapping[str, Sequence[str]] = {
    "poisson": (),
    "turns": ("privacy.sampling=cyclic",),
    "dp_ftrl": ("privacy.sampling=cyclic", "privacy.mechanism=dp_ftrl"),
}
WORK = (
    *("model.name=lenet", "federated.num_rounds=100", "federated.fraction_fit=0.1", "federated.local_epochs=2"),
    *("federated.batch_size=10", "optimizer.lr=0.05", "federated.evaluate_every=0"),
    *("data.source=fashion_mnist", "data.partition.scheme=iid", "data.partition.clients=1000"),
    *("data.validation=0", "data.client_test=0", "privacy.mode=central", "privacy.clip=1", "privacy.delta=1e-5"),
    *("tracking.tensorboard=false", "tracking.report=false"),
)
SMALL = ("data.source=sample", "data.partition.clients=50", "federated.num_rounds=1")


def accuracy(way: str, epsilon: float | None, seed: int, work: Path, *more: str) -> float:
    """Test accuracy of the last round; of an earlier call, where that run is in `work`."""
    name = f"{way}-{'none' if epsilon is None else f'{epsilon:g}'}-{seed}"
    noise = "privacy.noise_multiplier=0" if epsilon is None else f"privacy.target_epsilon={epsilon}"
    done = [run.path for run in find_runs(work) if run.path.name.startswith(f"{name}-") and run.result.exists()]
    if not done:
        overrides = (*WORK, *WAYS[way], noise, *more, f"seed={seed}", f"tracking.dir={work}", f"tracking.name={name}")
        done = [fedlens.run(None, *overrides, show=False).folder]
    return float(read_metrics(done[0] / "metrics.jsonl")[-1]["test"]["accuracy"])


def table(found: Mapping[str, Mapping[str, Sequence[float]]], epsilons: Sequence[str]) -> Table:
    shown = Table("ε", *found, title="test accuracy, mean (lowest – highest)")
    for epsilon in epsilons:
        cells = [_cell(rows[epsilon]) if epsilon in rows else "–" for rows in found.values()]
        shown.add_row(epsilon, *cells)
    return shown


def _cell(values: Sequence[float]) -> str:
    spread = f" ({100 * min(values):.1f} – {100 * max(values):.1f})" if len(values) > 1 else ""
    return f"{100 * mean(values):.1f} %{spread}"


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epsilons", type=float, nargs="+", default=[8, 4, 2, 1])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--work", type=Path, default=Path("logs/privacy-utility"), help="folder of the runs")
    arguments = parser.parse_args()
    before, small = machine.facts(), arguments.small
    seeds, more = ([0], SMALL) if small else (arguments.seeds, ())
    levels: list[float | None] = [None, *([8.0] if small else arguments.epsilons)]
    found: dict[str, dict[str, list[float]]] = {}
    for way in ["poisson"] if small else arguments.ways:
        for level in levels:
            label = "no noise" if level is None else f"{level:g}"
            scores = [accuracy(way, level, seed, arguments.work, *more) for seed in seeds]
            found.setdefault(way, {})[label] = scores
            print(f"{way:8} ε {label:8} {_cell(scores)}", flush=True)
    labels = ["no noise" if level is None else f"{level:g}" for level in levels]
    Console().print(table(found, labels))
    print(machine.save("privacy-utility", before, {"accuracies": found}, small=small))


if __name__ == "__main__":
    main()
