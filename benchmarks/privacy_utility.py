"""What accuracy each ε buys: differential privacy of whole clients, and of single images, against none.

    .venv/bin/python benchmarks/privacy_utility.py
    .venv/bin/python benchmarks/privacy_utility.py --seeds 0 --epsilons none 8 2 --ways poisson

LeNet on Fashion-MNIST. Whole clients: dealt out evenly to 1,000 clients of 60 images, 100 of them a round on average,
100 rounds of two local epochs, clip 1, δ = 1e-5. Ways to spend the same ε:

    poisson   cohorts drawn by coins, independent noise: what amplification by sampling is worth
    turns     groups that take turns, independent noise: no amplification
    dp_ftrl   the same groups, DP-FTRL
    flower    Flower's server-side fixed clipping (`flower_clipping.py`) with the noise multiplier of `poisson`. Its
              cohorts have a fixed size and are not secret, so the ε that can be claimed for it is a larger one; it is
              computed by the same accountant, and told beside
    example   DP-SGD: single images are hidden, of 10 clients with 6,000 each; 10 rounds of one local epoch

"no noise" clips and samples alike. The table has the test accuracy of the last round: mean, lowest and highest over the
seeds. Noise and cohorts come from the operating system, so a run does not repeat to the bit. What has run is kept in
the folder `--work`: the same command again does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

import machine
from rich.console import Console
from rich.table import Table

import fedlens
from fedlens.privacy.accounting import Release, epsilon, noise_for
from fedlens.tracking.metrics import read_metrics
from fedlens.tracking.run_dir import find_runs

ROUNDS, FRACTION, DELTA, CLIENTS = 100, 0.1, 1e-5, 1000
WORK = (
    *("model.name=lenet", "data.source=fashion_mnist", "data.partition.scheme=iid", "data.validation=0"),
    *("data.client_test=0", "federated.evaluate_every=0", "tracking.tensorboard=false", "tracking.report=false"),
)
CLIENT_LEVEL = (
    *(f"federated.num_rounds={ROUNDS}", f"federated.fraction_fit={FRACTION}", "federated.local_epochs=2"),
    *("federated.batch_size=10", "optimizer.lr=0.05", f"data.partition.clients={CLIENTS}"),
)
CENTRAL = (*CLIENT_LEVEL, "privacy.mode=central", "privacy.clip=1", f"privacy.delta={DELTA}")
FLOWER = (
    *(*CLIENT_LEVEL, "aggregation.name=flower_clipping", f"aggregation.clients={int(FRACTION * CLIENTS)}"),
    f"plugins=[{Path(__file__).with_name('flower_clipping.py')}]",
)
EXAMPLE = (
    *("federated.num_rounds=10", "federated.fraction_fit=1", "federated.local_epochs=1", "federated.batch_size=256"),
    *("optimizer.lr=0.5", "data.partition.clients=10"),
    *("privacy.mode=example", "privacy.clip=1", f"privacy.delta={DELTA}"),
)
WAYS: Mapping[str, Sequence[str]] = {
    "poisson": CENTRAL,
    "turns": (*CENTRAL, "privacy.sampling=cyclic"),
    "dp_ftrl": (*CENTRAL, "privacy.sampling=cyclic", "privacy.mechanism=dp_ftrl"),
    "flower": FLOWER,
    "example": EXAMPLE,
}
SMALL = {
    "poisson": ("data.source=sample", "data.partition.clients=50", "federated.num_rounds=1"),
    "flower": ("data.source=sample", "data.partition.clients=50", "federated.num_rounds=1", "aggregation.clients=5"),
}


def sigma(target: float) -> float:
    """The noise multiplier of `poisson` for that ε."""
    return noise_for(target, DELTA, lambda one: {Release(one, FRACTION): ROUNDS})


def noise(way: str, target: float | None) -> str:
    if way == "flower":
        return f"aggregation.sigma={0 if target is None else sigma(target)}"
    return "privacy.noise_multiplier=0" if target is None else f"privacy.target_epsilon={target}"


def accuracy(way: str, target: float | None, seed: int, work: Path, *more: str) -> float:
    """Test accuracy of the last round; of an earlier call, where that run is in `work`."""
    name = f"{way}-{'none' if target is None else f'{target:g}'}-{seed}"
    done = [run.path for run in find_runs(work) if run.path.name.startswith(f"{name}-") and run.result.exists()]
    if not done:
        overrides = (*WORK, *WAYS[way], noise(way, target), *more, f"seed={seed}")
        done = [fedlens.run(None, *overrides, f"tracking.dir={work}", f"tracking.name={name}", show=False).folder]
    return float(read_metrics(done[0] / "metrics.jsonl")[-1]["test"]["accuracy"])


def claimable(target: float) -> float:
    """ε of Flower's run: a client may take part in every round, and no sampling is secret."""
    return epsilon({Release(sigma(target)): ROUNDS}, DELTA).value


def table(found: Mapping[str, Mapping[str, Sequence[float]]], levels: Sequence[str]) -> Table:
    shown = Table("ε", *found, title="test accuracy, mean (lowest – highest)")
    for row in levels:
        cells = [_cell(rows[row]) if row in rows else "–" for rows in found.values()]
        shown.add_row(row, *cells)
    return shown


def _cell(values: Sequence[float]) -> str:
    spread = f" ({100 * min(values):.1f} – {100 * max(values):.1f})" if len(values) > 1 else ""
    return f"{100 * mean(values):.1f} %{spread}"


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epsilons", type=level, nargs="+", default=[None, 8.0, 4.0, 2.0, 1.0], help="none: no noise")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--work", type=Path, default=Path("logs/privacy-utility"), help="folder of the runs")
    arguments = parser.parse_args()
    before, small = machine.facts(), arguments.small
    seeds = [0] if small else arguments.seeds
    levels: list[float | None] = [None, 8.0] if small else arguments.epsilons
    found: dict[str, dict[str, list[float]]] = {}
    for way in SMALL if small else arguments.ways:
        for target in levels:
            more = SMALL[way] if small else ()
            scores = [accuracy(way, target, seed, arguments.work, *more) for seed in seeds]
            found.setdefault(way, {})[label(target)] = scores
            print(f"{way:8} ε {label(target):8} {_cell(scores)}", flush=True)
    Console().print(table(found, [label(target) for target in levels]))
    unamplified = {label(target): claimable(target) for target in levels if target is not None}
    print(f"ε of Flower's runs, without amplification: {unamplified}")
    print(machine.save("privacy-utility", before, {"accuracies": found, "flower_epsilon": unamplified}, small=small))


def level(text: str) -> float | None:
    return None if text == "none" else float(text)


def label(target: float | None) -> str:
    return "no noise" if target is None else f"{target:g}"


if __name__ == "__main__":
    main()
